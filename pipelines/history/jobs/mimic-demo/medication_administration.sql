-- Medicines given at once (not the running ones) of the MIMIC-IV demo, by ATC; a code for what CLIF calls a category.
WITH medicine(med_category, code) AS (
    VALUES ('vancomycin', 'J01XA01'), ('cefepime', 'J01DE01'), ('ceftriaxone', 'J01DD04'), ('meropenem', 'J01DH02'),
        ('piperacillin_tazobactam', 'J01CR05'), ('ciprofloxacin', 'J01MA02'), ('metronidazole', 'J01XD01'),
        ('heparin', 'B01AB01'), ('furosemide', 'C03CA01'), ('propofol', 'N01AX10'), ('lorazepam', 'N05BA06')
), unit(med_dose_unit, dose_unit) AS (
    VALUES ('mg', 'mg'), ('mL', 'mL'), ('grams', 'g'), ('mcg', 'ug'), ('units', 'U')
)
SELECT
    'mimic-demo|' || m.med_order_id || '|' || CAST(m.line AS varchar) AS administration_id,
    1 AS version,
    h.patient_id,
    m.hospitalization_id AS encounter_id,
    'completed' AS status,
    'http://www.whocc.no/atc' AS code_system,
    c.code,
    CASE WHEN u.dose_unit IS NOT NULL THEN CAST(m.med_dose AS double precision) END AS dose,
    u.dose_unit,
    m.admin_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS administered_at,
    m.admin_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS available_at
FROM medication AS m
JOIN medicine AS c ON c.med_category = m.med_category
LEFT JOIN unit AS u ON u.med_dose_unit = m.med_dose_unit
JOIN hospitalization AS h ON h.hospitalization_id = m.hospitalization_id
JOIN anchors AS a ON a.hospitalization_id = m.hospitalization_id
WHERE m.admin_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' <= a.reference
ORDER BY administered_at, m.line
