"""Settings: strict types, nearest names, and errors that name file and key, all before anything
runs.
"""

import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.core import config as settings
from lib.core.config import Settings, SettingsError
from lib.core.paths import NOTEBOOKS, PARAMS


@pytest.fixture
def params(tmp_path):
    shutil.copy(PARAMS / "defaults.yaml", tmp_path)
    return tmp_path


def write(params, text):
    (params / "mine.yaml").write_text(text)
    return params


def fails(params, text):
    with pytest.raises(SettingsError) as caught:
        settings.load("mine", params=write(params, text))
    return str(caught.value)


@pytest.mark.parametrize("profile", settings.profiles())
def test_every_profile_loads(profile):
    assert settings.load(profile).study.seeds >= 3


def test_a_profile_overrides_only_what_it_names(params):
    ours, base = (
        settings.load("mine", params=write(params, "training:\n  epochs: 3\n")),
        settings.load("world"),
    )
    assert ours.training.epochs == 3
    assert ours.training.max_ram_mb == base.training.max_ram_mb


def test_unknown_key_names_the_nearest_and_the_file(params):
    message = fails(params, "training:\n  epoch: 3\n")
    assert "'epoch'" in message and "did you mean 'epochs'?" in message
    assert message.splitlines()[-1] == f"{params / 'mine.yaml'}: training.epoch"


def test_unknown_section_names_the_nearest(params):
    assert "did you mean 'training'?" in fails(params, "trainin:\n  epochs: 3\n")


@pytest.mark.parametrize("line, expected", [
    ("lr: 1e-3", "write 1.0e-3"),
    ("base_width: 3e1", "write 1.0e-3"),
    ("epochs: no", "put text in quotes"),
    ("epochs: -3", "greater than or equal to 1"),
    ("epochs: 2.5", "integer"),
    ("label_smoothing: 1.5", "less than or equal to 1"),
    ("lr: .nan", "finite number"),
    ("arms: real", "list"),
    ("arms: []", "at least 1"),
    ("arms: [real, real]", "each name once"),
    ("arms: [real++sd]", "match pattern"),
    ("batch_size: 99999999999999999999", "less than or equal"),
    ("epochs:", "integer"),
])
def test_wrong_values_say_what_was_expected_and_where(params, line, expected):
    message = fails(params, f"training:\n  {line}\n")
    key = f"training.{line.split(':')[0]}"
    assert expected in message and key in message
    assert message.splitlines()[-1].startswith(str(params / "mine.yaml"))


def test_a_key_written_twice_is_refused(params):
    assert "'epochs' stands twice" in fails(params, "training:\n  epochs: 3\n  epochs: 4\n")


@pytest.mark.parametrize("line", ['title: "  "', 'store: "a\\0b"', "store: ''"])
def test_blank_and_unusable_texts_are_refused(params, line):
    assert "study." in fails(params, f"study:\n  {line}\n")


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 3000, "- a\n", "training: 3\n", "training: [1\n", "just words\n", "training:\n"],
)
def test_wrong_shapes_name_the_file(params, text):
    assert str(params / "mine.yaml") in fails(params, text)


def test_a_yaml_tag_runs_nothing(params, tmp_path):
    message = fails(
        params, f"study:\n  title: !!python/object/apply:os.mkdir ['{tmp_path / 'planted'}']\n"
    )
    assert "not readable as YAML" in message and not (tmp_path / "planted").exists()


def test_a_missing_profile_names_the_nearest(params):
    write(params, "")
    with pytest.raises(SettingsError, match="did you mean 'mine'"):
        settings.load("mime", params=params)


@pytest.mark.parametrize("name", ["../mine", "", "a b", "defaults", "/mine", "mine.yaml"])
def test_what_is_no_name_of_a_profile(params, name):
    write(params, "")
    with pytest.raises(SettingsError, match="no profile named"):
        settings.load(name, params=params)


def test_a_fault_in_the_defaults_names_the_defaults(params):
    tree = yaml.safe_load((params / "defaults.yaml").read_text())
    del tree["training"]["base_width"]
    (params / "defaults.yaml").write_text(yaml.safe_dump(tree))
    message = fails(params, "training:\n  epochs: 3\n")
    assert "'base_width' is missing" in message and "defaults.yaml" in message.splitlines()[-1]


CHAPTERS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
EMPTY = {
    key: None
    for name in Settings.model_fields
    for key in Settings.model_fields[name].annotation.model_fields
}


def test_parameter_cells_are_up_to_date():
    assert settings.write_cells(write=False) == [], "run `python -m lib.core.config cells`"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_parameter_cell_holds_the_default_profile_and_nothing_else(chapter):
    variables = {}
    exec(settings.cell(chapter), variables)
    own = {key: value for key, value in variables.items() if not key.startswith("__")}
    assert own.pop("profile") == "world"
    assert set(own) == set(settings.load("world").parameters(chapter)) and set(own.values()) == {
        None
    }
    assert all(len(line) <= 100 for line in settings.cell(chapter).splitlines())


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.parametrize("profile", ["world", "digits", "smoke"])
def test_lab_papermill_and_make_resolve_to_the_same_settings(chapter, profile):
    variables = {}
    # JupyterLab, where the student writes the profile's name
    exec(settings.cell(chapter), variables)
    lab = settings.resolve(chapter, variables | {"profile": profile})
    make = settings.resolve(chapter, {"profile": profile})  # what Make hands to papermill
    assert lab.config == make.config == settings.load(profile)
    assert not lab.changes and str(lab) == ""


def test_papermill_changes_just_what_it_names_and_the_difference_is_stated():
    resolved = settings.resolve("04_training", {**EMPTY, "profile": "smoke", "epochs": 3})
    base = settings.load("smoke")
    assert resolved.config.training == base.training.model_copy(update={"epochs": 3})
    assert resolved.config.data == base.data and resolved.config.study == base.study
    assert str(resolved) == "differs from profile smoke: training.epochs = 3 (profile: 2)"


def test_a_value_equal_to_the_profile_is_no_difference():
    epochs = settings.load("smoke").training.epochs
    assert not settings.resolve("04_training", {"profile": "smoke", "epochs": epochs}).changes


def test_a_wrong_value_in_a_cell_names_the_notebook():
    with pytest.raises(SettingsError, match="epochs = 'three'.*integer") as caught:
        settings.resolve("04_training", {"profile": "smoke", "epochs": "three"})
    assert str(caught.value).splitlines()[-1] == (
        "notebooks/04_training.ipynb, cell tagged `parameters`: training.epochs")


def test_renamed_keys_lead_to_keys_that_exist():
    for old, new in settings.RENAMED.items():
        section, key = new.split(".")
        assert key in Settings.model_fields[section].annotation.model_fields, old


def test_many_faults_are_listed_in_part(params):
    message = fails(params, "training:\n" + "".join(f"  wrong{k}: 1\n" for k in range(500)))
    assert "and 480 more faults" in message and len(message) < 20_000


def test_a_list_that_anchors_blow_up_is_shown_in_part(params):
    levels = "".join(f"  - &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 7))
    assert len(fails(params, f"training:\n  arms:\n  - &a0 [x]\n{levels}")) < 20_000


@pytest.mark.parametrize("value", ["0200", "3:20"])
def test_numbers_that_yaml_reads_in_another_base_are_refused(params, value):
    assert "is not a decimal number" in fails(params, f"data:\n  train: {value}\n")


def test_merge_keys_are_refused_in_words(params):
    text = "data: &d\n  train: 200\ntraining:\n  <<: *d\n"
    assert "merge keys (<<) are not supported" in fails(params, text)


def test_no_name_stands_in_two_sections_of_one_notebook():
    study = set(settings.Study.model_fields) | {"profile"}
    for name, info in Settings.model_fields.items():
        if name != "study":
            assert not study & set(info.annotation.model_fields)


@hypothesis_settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    )
)
def test_whatever_a_value_is_it_loads_or_explains(value):
    base = yaml.safe_load((PARAMS / "defaults.yaml").read_text())
    for section, key in [
        ("training", "epochs"),
        ("data", "root"),
        ("study", "seeds"),
        ("training", "arms"),
    ]:
        tree = {**base, section: {**base[section], key: value}}
        try:
            loaded = settings._validate(Settings, tree, lambda _: "here.yaml")
        except SettingsError as error:
            assert str(error).splitlines()[-1].startswith("here.yaml: ")
        else:
            assert getattr(getattr(loaded, section), key) == value


@pytest.mark.parametrize("old, new", settings.RENAMED.items())
def test_an_old_key_is_refused_with_its_new_name(params, old, new):
    section, key = old.split(".")
    assert f"{old} is now called {new}" in fails(params, f"{section}:\n  {key}: 1\n")
    assert (
        new.split(".")[1]
        in settings.Settings.model_fields[new.split(".")[0]].annotation.model_fields
    )
