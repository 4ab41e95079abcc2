-- A patient is a stay: the challenge does not say which stays are of one patient.
SELECT
    CAST(record_id AS varchar) AS patient_id,
    1 AS version,
    CASE max(CASE WHEN parameter = 'Gender' THEN value END) WHEN 0 THEN 'female' WHEN 1 THEN 'male' ELSE 'unknown' END
        AS sex,
    TIMESTAMP '2012-01-01 00:00:00' + mod(record_id, 28) * INTERVAL '1 day' AS available_at
FROM measured
WHERE minute = 0
GROUP BY record_id
ORDER BY record_id
