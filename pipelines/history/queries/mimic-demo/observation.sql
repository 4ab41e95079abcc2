-- Vital signs of the MIMIC-IV demo, re-based, as the simulated bedside devices send them: the same identifiers, so that
-- what came live and what comes from here is one observation. Times are UTC.
WITH charted AS (
    SELECT
        v.hospitalization_id AS stay,
        h.patient_id,
        epoch_us(v.recorded_dttm) AS recorded_us,
        v.vital_category AS vital,
        v.vital_value AS value,
        trim(regexp_replace(lower(
            CASE WHEN v.vital_category IN ('sbp', 'dbp', 'map')
                THEN regexp_replace(v.vital_name, ' ?(systolic|diastolic|mean)', '', 'gi')
                ELSE v.vital_name END
        ), '[^a-z0-9]+', '-', 'g'), '-') AS kind,
        v.rowid AS line,
        a.shift_seconds
    FROM vitals AS v
    JOIN hospitalization AS h USING (hospitalization_id)
    JOIN anchors AS a USING (hospitalization_id)
), latest AS (  -- of two values of one sign at one moment the later line counts
    SELECT * FROM charted
    QUALIFY row_number() OVER (PARTITION BY stay, recorded_us, kind, vital ORDER BY line DESC) = 1
), sized AS (
    SELECT *, count(*) OVER (PARTITION BY stay, recorded_us, kind) AS parts FROM latest
), units AS (
    SELECT
        hospitalization_id AS stay,
        epoch_us(in_dttm) AS since_us,
        trim(regexp_replace(lower(coalesce(
            nullif(regexp_extract(location_name, '\(([^)]+)\)', 1), ''), location_name, 'ward'
        )), '[^a-z0-9]+', '-', 'g'), '-') AS unit
    FROM adt
), beds AS (
    SELECT
        stay,
        unit || '-' || printf('%02d', dense_rank() OVER (PARTITION BY unit ORDER BY stay)) AS device_id,
        -- before the first known bed, that of the first
        CASE WHEN row_number() OVER (PARTITION BY stay ORDER BY since_us) = 1 THEN -1 ELSE since_us END AS since_us
    FROM units
), codes(vital, code, unit) AS (
    VALUES ('heart_rate', '8867-4', '/min'), ('respiratory_rate', '9279-1', '/min'), ('spo2', '2708-6', '%'),
        ('temp_c', '8310-5', 'Cel'), ('sbp', '8480-6', 'mm[Hg]'), ('dbp', '8462-4', 'mm[Hg]'),
        ('map', '8478-0', 'mm[Hg]'), ('weight_kg', '29463-7', 'kg'), ('height_cm', '8302-2', 'cm')
)
SELECT
    'urn:vitalake:simulator:mimic-iv-demo' AS identity_system,
    s.stay || '-' || s.kind || '-' || printf('%x', s.recorded_us // 60000000) AS identity_value,
    1 AS version,
    s.patient_id,
    s.stay AS encounter_id,
    coalesce(b.device_id, 'transport-01') AS device_id,
    c.code,
    CASE WHEN s.parts > 1 THEN '85354-9' END AS panel_code,
    s.value,
    c.unit,
    'final' AS status,
    make_timestamp(s.recorded_us + s.shift_seconds * 1000000) AS effective_at,
    make_timestamp(s.recorded_us + s.shift_seconds * 1000000 + 5000000) AS issued_at
FROM sized AS s
JOIN codes AS c USING (vital)
ASOF LEFT JOIN beds AS b ON b.stay = s.stay AND s.recorded_us >= b.since_us
ORDER BY effective_at, identity_value, code
