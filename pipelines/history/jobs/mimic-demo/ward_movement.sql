-- The beds of the MIMIC-IV demo's patients, moved in time; beds of a time after now are left out.
WITH moved AS (
    SELECT
        m.*,
        h.patient_id AS patient,
        m.in_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS in_at,
        -- The demo names no beds: they are numbered as the simulator numbers its monitors, a bed for each stay in a unit.
        dense_rank() OVER (PARTITION BY m.location_name ORDER BY m.hospitalization_id COLLATE "C") AS bed,
        m.out_dttm + a.shift_days * INTERVAL '1 day' + a.shift_seconds * INTERVAL '1 second' AS out_at,
        a.reference
    FROM adt AS m
    JOIN hospitalization AS h ON h.hospitalization_id = m.hospitalization_id
    JOIN anchors AS a ON a.hospitalization_id = m.hospitalization_id
)
SELECT
    hospitalization_id AS encounter_id,
    1 AS version,
    patient AS patient_id,
    in_at,
    CASE WHEN out_at <= reference THEN out_at END AS out_at,
    location_name AS unit,
    location_category AS unit_category,
    'Bed ' || lpad(CAST(bed AS varchar), 2, '0') AS bed,
    in_at AS available_at
FROM moved
WHERE in_at <= reference
ORDER BY in_at, hospitalization_id COLLATE "C", line
