-- Measurements, with the challenge's units in UCUM. Magnesium is called mmol/L there; its values (median 2.0) can
-- only be mg/dL. A weight or height of -1 means unknown. Left out on purpose: MechVent, which has no value but 1.
WITH codes(parameter, code, unit, factor) AS (
    VALUES ('HR', '8867-4', '/min', 1), ('RespRate', '9279-1', '/min', 1), ('SaO2', '2708-6', '%', 1),
        ('Temp', '8310-5', 'Cel', 1), ('SysABP', '8480-6', 'mm[Hg]', 1), ('NISysABP', '8480-6', 'mm[Hg]', 1),
        ('DiasABP', '8462-4', 'mm[Hg]', 1), ('NIDiasABP', '8462-4', 'mm[Hg]', 1), ('MAP', '8478-0', 'mm[Hg]', 1),
        ('NIMAP', '8478-0', 'mm[Hg]', 1), ('GCS', '9269-2', '{score}', 1), ('FiO2', '3150-6', '%', 100),
        ('Urine', '9187-6', 'mL', 1), ('Weight', '29463-7', 'kg', 1), ('Height', '8302-2', 'cm', 1),
        ('BUN', '3094-0', 'mg/dL', 1), ('Creatinine', '2160-0', 'mg/dL', 1), ('Glucose', '2345-7', 'mg/dL', 1),
        ('HCO3', '1963-8', 'mmol/L', 1), ('HCT', '4544-3', '%', 1), ('K', '2823-3', 'mmol/L', 1),
        ('Na', '2951-2', 'mmol/L', 1), ('Mg', '19123-9', 'mg/dL', 1), ('WBC', '6690-2', '10*3/uL', 1),
        ('Platelets', '777-3', '10*3/uL', 1), ('Bilirubin', '1975-2', 'mg/dL', 1), ('Albumin', '1751-7', 'g/dL', 1),
        ('ALP', '6768-6', 'U/L', 1), ('ALT', '1742-6', 'U/L', 1), ('AST', '1920-8', 'U/L', 1),
        ('Lactate', '2524-7', 'mmol/L', 1), ('PaO2', '2703-7', 'mm[Hg]', 1), ('PaCO2', '2019-8', 'mm[Hg]', 1),
        ('pH', '2744-1', '[pH]', 1), ('TroponinI', '10839-9', 'ng/mL', 1), ('TroponinT', '6598-7', 'ng/mL', 1),
        ('Cholesterol', '2093-3', 'mg/dL', 1)
)
SELECT
    'urn:vitalake:cinc-2012' AS identity_system,
    CAST(m.line AS varchar) AS identity_value,
    1 AS version,
    CAST(m.record_id AS varchar) AS patient_id,
    CAST(m.record_id AS varchar) AS encounter_id,
    c.code,
    m.value * c.factor AS value,
    c.unit,
    'final' AS status,
    TIMESTAMP '2012-01-01 00:00:00' + (mod(m.record_id, 28) * 1440 + m.minute) * INTERVAL '1 minute' AS effective_at,
    TIMESTAMP '2012-01-01 00:00:00' + (mod(m.record_id, 28) * 1440 + m.minute) * INTERVAL '1 minute' AS issued_at
FROM measured AS m
JOIN codes AS c ON c.parameter = m.parameter
WHERE NOT (m.parameter IN ('Weight', 'Height') AND m.value = -1)
ORDER BY effective_at, m.line
