SELECT
    CAST(record_id AS varchar) AS encounter_id,
    1 AS version,
    CAST(record_id AS varchar) AS patient_id,
    TIMESTAMP '2012-01-01 00:00:00' + mod(record_id, 28) * INTERVAL '1 day' AS in_at,
    CASE value WHEN 1 THEN 'Coronary Care Unit' WHEN 2 THEN 'Cardiac Surgery Recovery Unit'
        WHEN 3 THEN 'Medical ICU' WHEN 4 THEN 'Surgical ICU' END AS unit,
    'icu' AS unit_category,
    TIMESTAMP '2012-01-01 00:00:00' + mod(record_id, 28) * INTERVAL '1 day' AS available_at
FROM measured
WHERE minute = 0 AND parameter = 'ICUType'
ORDER BY in_at, record_id
