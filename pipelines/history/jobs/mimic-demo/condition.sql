-- Diagnoses of the MIMIC-IV demo's stays; they are coded at discharge, so they are not known before.
SELECT
    d.hospitalization_id AS encounter_id,
    d.diagnosis_code_format AS code_system,
    d.diagnosis_code AS code,
    1 AS version,
    h.patient_id,
    d.diagnosis_primary = 1 AS is_primary,
    h.discharge_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS recorded_at,
    h.discharge_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS available_at
FROM diagnosis AS d
JOIN hospitalization AS h ON h.hospitalization_id = d.hospitalization_id
JOIN anchors AS a ON a.hospitalization_id = d.hospitalization_id
WHERE h.discharge_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' <= a.reference
ORDER BY
    recorded_at, d.hospitalization_id COLLATE "C", d.diagnosis_code_format COLLATE "C", d.diagnosis_code COLLATE "C", d.line
