"""The code of a builder is part of its key: what it reaches counts, how it is written down and
where it lives does not.
"""

import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

from lib.core.fingerprint import CodeError, fingerprint, kind_of, reached

BUILDER = """
'''A module.'''
import numpy as np
from lib import tune
from lib.optimiser import fit as train, RATES

WIDTH = 8


def helper(x: int) -> int:
    '''Doubles.'''
    return 2 * x


def unrelated():
    return 1


@artifact("toy")
def build(store, spec):
    def write(path):
        train(np.zeros(WIDTH), helper(spec.seed), tune.DECAY, RATES["low"])
    return {"file": write}
"""
OPTIMISER = """
RATES = {}
RATES["low"] = 0.1
MOMENTUM = 0.9


class Optimiser:
    def step(self):
        return MOMENTUM


def fit(*numbers):
    from lib.late import finish
    return finish(Optimiser().step())


def unrelated():
    return MOMENTUM
"""
FILES = {
    "lib/__init__.py": "",
    "lib/toy.py": BUILDER,
    "lib/optimiser.py": OPTIMISER,
    "lib/tune.py": "DECAY = 0.5\nOTHER = 1\n",
    "lib/late.py": "def finish(x, power=2):\n    return x ** power\n",
}


@pytest.fixture
def checkout(tmp_path):
    """A function that writes a checkout with some texts replaced and returns the fingerprint of its
    builder.
    """
    def fingerprinted(*changes, files=FILES, builder="lib.toy:build"):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            for old, new in changes:
                text = text.replace(old, new)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(textwrap.dedent(text))
        return fingerprint(builder, root)
    return fingerprinted


@pytest.mark.parametrize(
    "change",
    [
        ("MOMENTUM = 0.9", "MOMENTUM = 0.8"),
        ('RATES["low"] = 0.1', 'RATES["low"] = 0.2'),
        ("power=2", "power=3"),
        ("return 2 * x", "return 3 * x"),
        ("WIDTH = 8", "WIDTH = 9"),
        ("DECAY = 0.5", "DECAY = 0.4"),
        ("np.zeros", "np.ones"),
        ("import numpy as np", "import torch as np"),
        ("def step(self):\n", "def step(self):\n        self.n = 1\n"),
        ('"low"', '"high"'),
        ("return MOMENTUM\n\n\ndef fit", "return -MOMENTUM\n\n\ndef fit"),
    ],
)
def test_a_change_in_what_a_builder_reaches_changes_it(checkout, change):
    assert checkout(change) != checkout()


SAME = {
    "docstring of the module": [("'''A module.'''", "'''Another text.'''")],
    "docstring of a function": [("'''Doubles.'''", "'''Twice\n    as much.'''")],
    "docstring of a class": [("class Optimiser:", "class Optimiser:\n    '''Descends.'''")],
    "comment and blanks": [("WIDTH = 8", "# wide\n\nWIDTH  =  8")],
    "annotations": [("x: int) -> int", "x)")],
    "unrelated function": [("def unrelated():\n    return 1", "def unrelated():\n    return 2")],
    "unrelated function elsewhere": [
        ("unrelated():\n    return MOMENTUM", "unrelated():\n    return -MOMENTUM")
    ],
    "unrelated constant": [("OTHER = 1", "OTHER = 2")],
    "name of a function": [("helper", "doubled")],
    "name of a class": [("Optimiser", "Descent")],
    "alias of an import": [("import fit as train", "import fit as teach"), ("train(", "teach(")],
    "alias of a package": [("import numpy as np", "import numpy"), ("np.zeros", "numpy.zeros")],
}


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_a_change_that_cannot_change_the_result_does_not(checkout, changes):
    assert checkout(*changes) == checkout()


def test_moved_and_renamed_files_keep_it(checkout):
    imports = "from lib import tune\nfrom lib.optimiser import fit as train, RATES"
    others = (
        "import lib.settings as tune\nfrom lib.deep import fit as train\n"
        "from .deep.sgd import RATES"
    )
    moved = {"lib/__init__.py": "", "lib/deep/__init__.py": "from lib.deep.sgd import fit\n",
             "lib/deep/sgd.py": OPTIMISER, "lib/toy.py": BUILDER.replace(imports, others),
             "lib/settings.py": FILES["lib/tune.py"], "lib/late.py": FILES["lib/late.py"]}
    assert checkout(files=moved) == checkout()
    renamed = {**FILES, "lib/other.py": BUILDER.replace("def build", "def make_it")}
    assert checkout(files=renamed, builder="lib.other:make_it") == checkout()


def test_a_module_that_is_passed_on_counts_whole(checkout):
    passed = ("tune.DECAY", "vars(tune)")
    assert checkout(passed) != checkout(passed, ("OTHER = 1", "OTHER = 2"))


def test_another_builder_counts_as_its_kind_alone(checkout):
    """Its result comes through the store, so that its own key covers its code."""
    asks = ("helper(spec.seed)", "other.kind")
    other = "\n\n@artifact(\"other\")\ndef other(store, spec):\n    return {}\n"
    files = FILES | {"lib/toy.py": BUILDER + other}
    assert checkout(asks, files=files) == checkout(
        asks, ("return {}", "return {1: 2}"), files=files
    )
    assert checkout(asks, files=files) != checkout(asks, ('"other"', '"third"'), files=files)


CELLS = ["%matplotlib inline\nfrom lib import optimiser", "optimiser.fit(1)  # trains"]


@pytest.mark.parametrize("old, new, files", [
    ("MOMENTUM = 0.9", "MOMENTUM = 0.9  # high", []),
    ("class Optimiser:", "class Optimiser:\n    \'\'\'Descends.\'\'\'", []),
    ("MOMENTUM = 0.9", "MOMENTUM = 0.8", ["optimiser.py"]),
    ("power=2", "power=3", ["late.py"]),
    ("DECAY = 0.5", "DECAY = 0.6", []),  # no cell reaches it
])
def test_cells_know_the_files_whose_code_they_reach(checkout, tmp_path, old, new, files):
    checkout()
    checkout((old, new))
    before, after = ({path.name: value for path, value in reached(CELLS, tmp_path / name).items()}
                     for name in "01")
    assert set(before) == {"optimiser.py", "late.py"}
    assert [name for name in before if before[name] != after[name]] == files


def test_cells_that_are_not_python_reach_nothing(checkout, tmp_path):
    checkout()
    assert reached(["from lib import ("], tmp_path / "0") == {}


def test_a_builder_that_is_not_there_is_named(checkout):
    with pytest.raises(CodeError, match="lib.toy defines no 'missing'"):
        checkout(builder="lib.toy:missing")


def test_an_edit_is_seen_by_a_process_that_read_the_file_before(checkout, tmp_path):
    before = checkout()
    (tmp_path / "0" / "lib" / "late.py").write_text(
        FILES["lib/late.py"].replace("power=2", "power=33")
    )
    assert fingerprint("lib.toy:build", tmp_path / "0") != before


def test_a_name_that_leads_elsewhere_is_seen_too(checkout, tmp_path):
    """By a package that only passes the name on, also where another builder was read before."""
    files = FILES | {"lib/deep/__init__.py": "from ..late import finish\n",
                     "lib/deep/other.py": "def finish(x):\n    return x\n"}
    text = ("from lib.late import finish", "from lib.deep import finish")
    twin = BUILDER + "\n\n@artifact(\"twin\")\ndef twin(store, spec):\n    return train\n"
    checkout(text, files=files | {"lib/toy.py": twin}, builder="lib.toy:build")
    root = tmp_path / "0"
    before = fingerprint("lib.toy:twin", root)
    (root / "lib/deep/__init__.py").write_text("from lib.deep.other import finish\n")
    assert fingerprint("lib.toy:twin", root) != before


def test_code_that_changed_after_it_was_loaded_is_not_run_under_a_new_key(tmp_path, monkeypatch):
    """As in a notebook's kernel: the key would be that of the new text, the numbers those of the
    old.
    """
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    fingerprint("lib.toy:build", tmp_path)
    path = tmp_path / "lib" / "late.py"
    monkeypatch.setitem(sys.modules, "lib.late", SimpleNamespace(__file__=str(path)))
    path.write_text(FILES["lib/late.py"] + "# a remark\n")
    fingerprint("lib.toy:build", tmp_path)  # the old code is the new code
    path.write_text(FILES["lib/late.py"].replace("power=2", "power=33"))
    with pytest.raises(
        CodeError, match="late.py changed after this process loaded it. Restart the kernel"
    ):
        fingerprint("lib.toy:build", tmp_path)


def test_every_builder_of_the_project_is_read_in_time():
    began = time.process_time()
    assert kind_of("lib.classifier.train:classifier") == "classifier"
    fingerprint("lib.classifier.train:classifier")
    first = time.process_time() - began
    began = time.process_time()
    for _ in range(100):
        fingerprint("lib.classifier.train:classifier")
    assert first < 5 and time.process_time() - began < 1
