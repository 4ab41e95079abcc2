-- Procedures of the MIMIC-IV demo that are coded in ICD-10-PCS; the day on which they were billed is all that is known.
SELECT
    'mimic-demo|' || CAST(p.line AS varchar) AS procedure_id,
    1 AS version,
    h.patient_id,
    p.hospitalization_id AS encounter_id,
    'completed' AS status,
    'http://www.cms.gov/Medicare/Coding/ICD10' AS code_system,
    p.procedure_code AS code,
    p.procedure_billed_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS performed_at,
    p.procedure_billed_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS available_at
FROM procedure_coded AS p
JOIN hospitalization AS h ON h.hospitalization_id = p.hospitalization_id
JOIN anchors AS a ON a.hospitalization_id = p.hospitalization_id
WHERE
    p.procedure_code_format = 'ICD10PCS'
    AND p.procedure_billed_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' <= a.reference
ORDER BY performed_at, p.line
