"""Device profiles: the shipped ones are valid, and an error in a profile names the wrong field."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.formats.flat.profile import FlatProfile, load_profile, parse_profile
from pipelines.formats.flat.profile_paths import parse_path
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.registry import make_decoder
from tests.decoding import decoder_of
from vitalake.errors import SettingsError
from vitalake.settings import Settings, StreamSettings, load_settings

SHIPPED = Path(__file__).parents[4] / "pipelines" / "formats" / "profiles"

GOOD = """
format: flat
description: x
zone: Europe/Berlin
patient: {path: $.pid, system: "urn:x"}
device: $.dev
id: "$.r[*].id"
time: {path: "$.r[*].t", format: epoch-ms}
status: {path: "$.r[*].s", is: {OK: final}}
values:
  - {path: "$.r[*].v", when: {path: "$.r[*].k", is: HR}, code: 8867-4, unit: /min}
  - path: "$.r[*].v"
    when: {path: "$.r[*].k", is: T}
    code: 8310-5
    unit: {path: "$.r[*].u", is: {C: Cel, F: "[degF]"}}
"""


def test_the_profiles_that_ship_hold() -> None:
    found = sorted(SHIPPED.glob("*.yaml"))
    assert len(found) >= 4
    for path in found:
        kind = FlatProfile if "format: flat" in path.read_text() else Hl7Profile
        assert load_profile(kind, path.stem, Settings()).description


@pytest.mark.parametrize("ending", ["YAML", "yml"])
def test_a_profile_of_another_ending_is_refused_and_not_replaced_by_the_one_that_ships(
    tmp_path: Path, ending: str
) -> None:
    settings = Settings(profiles=tmp_path)
    (tmp_path / f"bedside-monitor.{ending}").write_text(GOOD)
    with pytest.raises(SettingsError, match=rf"does not end in \.yaml: .*bedside-monitor\.{ending}"):
        load_profile(FlatProfile, "bedside-monitor", settings)


def test_a_good_one_holds() -> None:
    assert parse_profile(FlatProfile, GOOD, where="x.yaml").values[1].units == ["Cel", "[degF]"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("8867-4", "8867-9", r"values.0.code: not a code"),
        ("unit: /min", "unit: kg", r"values.0.unit: not a unit of this code"),
        ("unit: /min", "unit: hertzs", r"values.0.unit: not a unit of this code"),
        (", unit: /min", "", r"values.0.unit: a number needs one"),
        ("unit: /min", "unit: /min, factor: 0", r"factor: 0"),
        ("unit: /min", "unit: /min, factor: .nan", r"values\.0\.factor"),
        ("Europe/Berlin", "Europe/Nowhere", r"Unknown time zone"),
        ("format: epoch-ms", "format: local", None),
        ("zone: Europe/Berlin\n", "", None),
        ("format: epoch-ms", "format: unix", r"time\.format"),
        ("$.dev", "dev", r"write \$\.a\.b"),
        ("$.dev", "$.dev.", r"write \$\.a\.b"),
        ("$.dev", "$..dev", r"write \$\.a\.b"),
        ("$.dev", '"$.a[*].b[*]"', r"at most once"),
        ("$.dev", "$.r", r"two kinds of value"),
        ("$.dev", "$.pid.x", r"two kinds of value"),
        ("is: T}", "is: HR}", r"the same path twice"),
        ("code: 8310-5\n", "code: 8867-4\n", r"not a unit of this code"),
        ('id: "$.r[*].id"\n', "", None),
        ("$.r[*].t", "$.q[*].t", r"readings must be of one list"),
        ("is: {OK: final}", "is: {OK: fine}", r"status\.is\.OK"),
        ("device:", "patient:", r"names a key twice"),
        ("format: flat", "format: flat\nzones: x", r"zones"),
        ("format: flat", "format: xml", r"format"),
        ("format: flat", "digest: x", r"not a mapping"),
        ("time: {", "clock: {", r"time"),
        ("patient: {path: $.pid, system: \"urn:x\"}\ndevice: $.dev\n", "", r"patient or device"),
        ("values:", "values: []\nother:", None),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused(old: str, new: str, said: str | None) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if said is None and "values: []" not in new:
        assert parse_profile(FlatProfile, text, where="x.yaml")
        return
    with pytest.raises(SettingsError, match=said or "values|other") as caught:
        parse_profile(FlatProfile, text, where="x.yaml")
    assert "x.yaml" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("[{path: $.hr, code: 8867-4, unit: /min}, {path: $.pr, code: 8867-4, unit: /min}]", "same code twice"),
        ("[{path: $.hr, code: 8867-4, unit: /min}, {path: $.hr, code: 8889-8, unit: /min}]", "same path twice"),
        (
            '[{path: "$.r[*].v", code: 8867-4, unit: /min}, {path: $.x, code: 8889-8, unit: /min}]',
            "stands in a reading",
        ),
        ('[{path: $.hr, when: {path: "$.r[*].k", is: x}, code: 8867-4, unit: /min}]', "stands in a reading|outside"),
        ("[{path: $.v, code: 8867-4, unit: /min, kind: text}]", "words have no unit"),
        (
            "[{path: $.v, code: 8867-4, unit: /min}, {path: $.v, when: {path: $.k, is: x}, code: 8889-8, unit: /min}]",
            "with and without a condition",
        ),
    ],
)
def test_values_that_could_be_taken_for_each_other_are_refused(values: str, said: str) -> None:
    text = f'format: flat\ndescription: x\npatient: $.p\ntime: "$.r[*].t"\nvalues: {values}'
    if "reading" not in said:
        text = text.replace('"$.r[*].t"', "$.t")
    with pytest.raises(SettingsError, match=said):
        parse_profile(FlatProfile, text, where="x.yaml")


def test_local_times_need_a_zone() -> None:
    text = GOOD.replace("zone: Europe/Berlin\n", "").replace("epoch-ms", "local")
    with pytest.raises(SettingsError, match="zone: local times need one"):
        parse_profile(FlatProfile, text, where="x.yaml")


def test_paths() -> None:
    path = parse_path("$.a['b c'][2].d-e[*].f")
    assert path.outer == (".a", ".b c", 2, ".d-e")
    assert path.inner == (".f",)
    assert parse_path("$[*]").outer == ()
    for wrong in ("", "a", "$.", "$[", "$[x]", "$['a]", "$.a b", "$.1", "$[99999]", "$[*][*]"):
        with pytest.raises(ValueError, match="write"):
            parse_path(wrong)


def test_a_profile_of_the_home_comes_before_one_that_ships(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    shipped = make_decoder("hl7-v2", dataset="observation", stream=StreamSettings(), settings=settings)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "hl7.yaml").write_text("format: hl7-v2\ndescription: ours\nzone: Europe/Berlin\n")
    own = make_decoder("hl7-v2", dataset="observation", stream=StreamSettings(), settings=settings)
    assert own.version != shipped.version, "the ledger says by which profile"


def test_no_such_profile_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"bedside-monitor.*ward-scale"):
        decoder_of("flat:nothing", settings=Settings(home=tmp_path))


def test_a_profile_of_another_format_is_refused() -> None:
    with pytest.raises(SettingsError, match="format"):
        decoder_of("flat:hl7")


@pytest.mark.parametrize(
    ("name", "dataset"), [("flat:ward-scale", "patient"), ("hl7-v2", "condition"), ("fhir", "ward_movement")]
)
def test_a_format_that_cannot_fill_a_dataset_is_refused(name: str, dataset: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"{name}: {dataset}")):
        decoder_of(name, dataset=dataset)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("fhir", True), ("hl7-v2", True), ("hl7-v2:our-feed", True), ("flat:scale", True), ("key-values", True),
        ("flat:../x", False), ("flat:", False), ("XML", False), ("a" * 32, False), ("hl7-v2:A", False), ("", False),
    ],
)  # fmt: skip
def test_formats_in_the_configuration(tmp_path: Path, name: str, known: bool) -> None:
    (tmp_path / "vitalake.yaml").write_text(f"jobs: {{vitals: {{topics: {{vitals: '{name}'}}}}}}\n")
    if known:
        assert load_settings(tmp_path).jobs["vitals"].topics == {"vitals": name}
    else:
        with pytest.raises(SettingsError, match="topics"):
            load_settings(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xml", r"Format is not registered: xml\. The formats are: fhir, flat, hl7-v2\."),
        ("fhir:x", "Format has no profiles: fhir:x"),
        ("flat", "Format needs a profile: flat"),
    ],
)
def test_a_format_that_is_not_registered_or_lacks_its_profile_is_refused(name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        decoder_of(name)


def test_the_profiles_of_the_handbook_hold() -> None:
    page = (Path(__file__).parents[4] / "docs" / "how-to" / "formats.md").read_text()
    found = re.findall(r"```yaml\n(format: .*?)```", page, re.DOTALL)
    assert len(found) == 3
    for text in found:
        kind = FlatProfile if text.startswith("format: flat") else Hl7Profile
        assert parse_profile(kind, text, where="formats.md").description


_WITHOUT_LIBRARY = """
import sys
import pipelines.live.lane, pipelines.attribution.associations, pipelines.formats.registry
assert "hl7" not in sys.modules, "imported before anybody uses it"
sys.modules["hl7"] = None
from pipelines.formats.registry import make_decoder
from vitalake.errors import SettingsError
from vitalake.settings import Settings, StreamSettings
make_decoder("flat:bedside-monitor", dataset="observation", stream=StreamSettings(), settings=Settings())
try:
    make_decoder("hl7-v2", dataset="observation", stream=StreamSettings(), settings=Settings())
except SettingsError as error:
    print(error)
"""


def test_the_hl7_library_is_asked_for_by_who_uses_it_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_LIBRARY], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install '.[hl7]'" in done.stdout
