-- Patients of the MIMIC-IV demo that have a stay, known from its beginning on. Names, numbers and addresses are made up.
SELECT
    p.patient_id,
    1 AS version,
    CASE lower(p.sex_category) WHEN 'female' THEN 'female' WHEN 'male' THEN 'male' ELSE 'unknown' END AS sex,
    p.name,
    p.mrn,
    p.address,
    p.birth_date,
    min(h.admission_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second') AS available_at
FROM patient AS p
JOIN hospitalization AS h ON h.patient_id = p.patient_id
JOIN anchors AS a ON a.hospitalization_id = h.hospitalization_id
GROUP BY p.patient_id, p.sex_category, p.name, p.mrn, p.address, p.birth_date
ORDER BY p.patient_id COLLATE "C"
