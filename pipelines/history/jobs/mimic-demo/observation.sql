-- What was measured of the MIMIC-IV demo's patients, re-based: vital signs, laboratory values, scores, oxygen. Times are
-- UTC. What was not known at the anchors' reference has not happened yet.
--
-- Vital signs carry the identifiers that the simulated bedside devices give them, so that what came live and what comes
-- from here is one observation. Left out on purpose: saturations by blood gas (venous samples stand among the arterial
-- ones), and differential blood counts.
WITH charted AS (
    SELECT
        v.hospitalization_id AS stay,
        v.recorded_dttm AS recorded,
        v.vital_category AS vital,
        v.vital_value AS value,
        trim(regexp_replace(lower(
            CASE WHEN v.vital_category IN ('sbp', 'dbp', 'map')
                THEN regexp_replace(v.vital_name, ' ?(systolic|diastolic|mean)', '', 'gi')
                ELSE v.vital_name END
        ), '[^a-z0-9]+', '-', 'g'), '-') AS kind,
        v.line
    FROM vitals AS v
), ranked AS (  -- of two values of one sign at one moment the later line counts
    SELECT *, row_number() OVER (PARTITION BY stay, recorded, kind, vital ORDER BY line DESC) AS age FROM charted
), sized AS (
    SELECT *, count(*) OVER (PARTITION BY stay, recorded, kind) AS parts FROM ranked WHERE age = 1
), units AS (
    SELECT
        hospitalization_id AS stay,
        in_dttm AS since,
        line,
        trim(regexp_replace(lower(
            regexp_replace(coalesce(location_name, 'ward'), '^.*\(([^)]+)\).*$', '\1')
        ), '[^a-z0-9]+', '-', 'g'), '-') AS unit
    FROM adt
), numbered AS (
    SELECT
        *,
        dense_rank() OVER (PARTITION BY unit ORDER BY stay COLLATE "C") AS bed,
        row_number() OVER (PARTITION BY stay ORDER BY since, line) AS place,
        lead(since) OVER (PARTITION BY stay ORDER BY since, line) AS until
    FROM units
), beds AS (  -- before the first known bed, that of the first
    SELECT
        stay,
        unit || '-' || CASE WHEN bed < 10 THEN '0' ELSE '' END || CAST(bed AS varchar) AS device_id,
        CASE WHEN place = 1 THEN TIMESTAMP '1900-01-01 00:00:00' ELSE since END AS since,
        coalesce(until, TIMESTAMP '9999-01-01 00:00:00') AS until
    FROM numbered
), vital_codes(vital, code, unit) AS (
    VALUES ('heart_rate', '8867-4', '/min'), ('respiratory_rate', '9279-1', '/min'), ('spo2', '2708-6', '%'),
        ('temp_c', '8310-5', 'Cel'), ('sbp', '8480-6', 'mm[Hg]'), ('dbp', '8462-4', 'mm[Hg]'),
        ('map', '8478-0', 'mm[Hg]'), ('weight_kg', '29463-7', 'kg'), ('height_cm', '8302-2', 'cm')
), lab_codes(category, code, unit) AS (
    VALUES ('potassium', '2823-3', 'mmol/L'), ('glucose_serum', '2345-7', 'mg/dL'), ('sodium', '2951-2', 'mmol/L'),
        ('chloride', '2075-0', 'mmol/L'), ('creatinine', '2160-0', 'mg/dL'), ('bicarbonate', '1963-8', 'mmol/L'),
        ('bun', '3094-0', 'mg/dL'), ('hemoglobin', '718-7', 'g/dL'), ('magnesium', '19123-9', 'mg/dL'),
        ('platelet_count', '777-3', '10*3/uL'), ('wbc', '6690-2', '10*3/uL'), ('phosphate', '2777-1', 'mg/dL'),
        ('calcium_total', '17861-6', 'mg/dL'), ('calcium_ionized', '17863-2', 'mg/dL'), ('ptt', '3173-2', 's'),
        ('pt', '5902-2', 's'), ('inr', '6301-6', '{INR}'), ('ph_arterial', '2744-1', '[pH]'),
        ('pco2_arterial', '2019-8', 'mm[Hg]'), ('po2_arterial', '2703-7', 'mm[Hg]'), ('ph_venous', '2746-6', '[pH]'),
        ('pco2_venous', '2021-4', 'mm[Hg]'), ('bilirubin_total', '1975-2', 'mg/dL'),
        ('bilirubin_conjugated', '1968-7', 'mg/dL'), ('bilirubin_unconjugated', '1971-1', 'mg/dL'),
        ('ast', '1920-8', 'U/L'), ('alt', '1742-6', 'U/L'), ('alkaline_phosphatase', '6768-6', 'U/L'),
        ('lactate', '2524-7', 'mmol/L'), ('ldh', '2532-0', 'U/L'), ('albumin', '1751-7', 'g/dL'),
        ('total_protein', '2885-2', 'g/dL'), ('troponin_t', '67151-1', 'ng/L'), ('ferritin', '2276-4', 'ng/mL'),
        ('crp', '1988-5', 'mg/L'), ('esr', '30341-2', 'mm/h')
), score_codes(category, code) AS (
    VALUES ('gcs_total', '9269-2'), ('gcs_eye', '9267-6'), ('gcs_motor', '9268-4'), ('gcs_verbal', '9270-0'),
        ('RASS', '54632-5'), ('braden_total', '38227-5')
), observed AS (
    SELECT
        s.stay || '-' || s.kind || '-'
            || lower(to_hex(CAST(floor(extract(epoch FROM s.recorded) / 60) AS bigint))) AS identity_value,
        s.stay,
        coalesce(b.device_id, 'transport-01') AS device_id,
        c.code,
        CASE WHEN s.parts > 1 THEN '85354-9' END AS panel_code,
        s.value,
        c.unit,
        s.recorded AS effective,
        s.recorded + INTERVAL '5 second' AS issued
    FROM sized AS s
    JOIN vital_codes AS c ON c.vital = s.vital
    LEFT JOIN beds AS b ON b.stay = s.stay AND s.recorded >= b.since AND s.recorded < b.until
    UNION ALL
    SELECT
        'lab-' || CAST(l.line AS varchar), l.hospitalization_id, NULL, c.code, NULL, l.lab_value_numeric, c.unit,
        l.lab_collect_dttm, greatest(l.lab_result_dttm, l.lab_collect_dttm)
    FROM labs AS l
    JOIN lab_codes AS c ON c.category = l.lab_category
    UNION ALL
    SELECT
        'score-' || CAST(s.line AS varchar), s.hospitalization_id, NULL, c.code, NULL, s.numerical_value, '{score}',
        s.recorded_dttm, s.recorded_dttm
    FROM assessments AS s
    JOIN score_codes AS c ON c.category = s.assessment_category
    UNION ALL
    SELECT
        'oxygen-' || CAST(r.line AS varchar), r.hospitalization_id, NULL, '3150-6', NULL, r.fio2_set * 100, '%',
        r.recorded_dttm, r.recorded_dttm
    FROM respiratory AS r
    WHERE r.fio2_set IS NOT NULL
    UNION ALL
    SELECT
        'flow-' || CAST(r.line AS varchar), r.hospitalization_id, NULL, '3151-8', NULL, r.lpm_set, 'L/min',
        r.recorded_dttm, r.recorded_dttm
    FROM respiratory AS r
    WHERE r.lpm_set IS NOT NULL
)
SELECT
    'urn:vitalake:simulator:mimic-iv-demo' AS identity_system,
    o.identity_value,
    1 AS version,
    h.patient_id,
    o.stay AS encounter_id,
    o.device_id,
    o.code,
    o.panel_code,
    o.value,
    o.unit,
    'final' AS status,
    o.effective + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS effective_at,
    o.issued + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS issued_at
FROM observed AS o
JOIN hospitalization AS h ON h.hospitalization_id = o.stay
JOIN anchors AS a ON a.hospitalization_id = o.stay
WHERE o.issued + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' <= a.reference
ORDER BY effective_at, identity_value COLLATE "C", code COLLATE "C"
