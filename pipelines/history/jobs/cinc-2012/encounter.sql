-- The challenge gives minutes since admission and no dates: stays are spread over 28 days of January 2012, by number.
SELECT
    CAST(o.record_id AS varchar) AS encounter_id,
    1 AS version,
    CAST(o.record_id AS varchar) AS patient_id,
    TIMESTAMP '2012-01-01 00:00:00' + mod(o.record_id, 28) * INTERVAL '1 day' AS admitted_at,
    TIMESTAMP '2012-01-01 00:00:00' + (mod(o.record_id, 28) + greatest(o.length_of_stay, 2)) * INTERVAL '1 day'
        AS discharged_at,
    CASE o.died WHEN 1 THEN 'Expired' WHEN 0 THEN 'Alive' END AS discharge_disposition,
    CAST(max(CASE WHEN m.parameter = 'Age' THEN m.value END) AS bigint) AS age_at_admission,
    TIMESTAMP '2012-01-01 00:00:00' + (mod(o.record_id, 28) + greatest(o.length_of_stay, 2)) * INTERVAL '1 day'
        AS available_at
FROM outcome AS o
JOIN measured AS m ON m.record_id = o.record_id AND m.minute = 0
GROUP BY o.record_id, o.length_of_stay, o.died
ORDER BY admitted_at, o.record_id
