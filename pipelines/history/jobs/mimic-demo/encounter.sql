-- Stays of the MIMIC-IV demo, re-based. What lies after the anchors' reference has not happened yet.
WITH moved AS (
    SELECT
        h.*,
        p.birth_date,
        h.admission_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS admitted_at,
        h.discharge_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS discharged_at,
        a.reference
    FROM hospitalization AS h
    JOIN patient AS p ON p.patient_id = h.patient_id
    JOIN anchors AS a ON a.hospitalization_id = h.hospitalization_id
)
SELECT
    hospitalization_id AS encounter_id,
    1 AS version,
    patient_id,
    admitted_at,
    CASE WHEN discharged_at <= reference THEN discharged_at END AS discharged_at,
    admission_type_category AS admission_type,
    CASE WHEN discharged_at <= reference THEN discharge_category END AS discharge_disposition,
    birth_date,
    CASE WHEN discharged_at <= reference THEN discharged_at ELSE admitted_at END AS available_at
FROM moved
WHERE admitted_at <= reference
ORDER BY admitted_at, hospitalization_id COLLATE "C"
