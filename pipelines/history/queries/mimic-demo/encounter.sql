-- Stays of the MIMIC-IV demo, re-based. What lies after the anchors' reference has not happened yet.
WITH moved AS (
    SELECT
        h.*,
        make_timestamp(epoch_us(h.admission_dttm) + a.shift_seconds * 1000000) AS admitted_at,
        make_timestamp(epoch_us(h.discharge_dttm) + a.shift_seconds * 1000000) AS discharged_at,
        a.reference
    FROM hospitalization AS h
    JOIN anchors AS a USING (hospitalization_id)
)
SELECT
    hospitalization_id AS encounter_id,
    1 AS version,
    patient_id,
    admitted_at,
    CASE WHEN discharged_at <= reference THEN discharged_at END AS discharged_at,
    admission_type_category AS admission_type,
    CASE WHEN discharged_at <= reference THEN discharge_category END AS discharge_disposition,
    age_at_admission,
    CASE WHEN discharged_at <= reference THEN discharged_at ELSE admitted_at END AS available_at
FROM moved
WHERE admitted_at <= reference
ORDER BY admitted_at, encounter_id
