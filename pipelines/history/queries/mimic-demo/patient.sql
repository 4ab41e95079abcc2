-- Patients of the MIMIC-IV demo that have a stay, known from its beginning on.
SELECT
    p.patient_id,
    1 AS version,
    CASE lower(p.sex_category) WHEN 'female' THEN 'female' WHEN 'male' THEN 'male' ELSE 'unknown' END AS sex,
    min(make_timestamp(epoch_us(h.admission_dttm) + a.shift_seconds * 1000000)) AS available_at
FROM patient AS p
JOIN hospitalization AS h USING (patient_id)
JOIN anchors AS a USING (hospitalization_id)
GROUP BY ALL
ORDER BY p.patient_id
