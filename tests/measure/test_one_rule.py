"""No module but `lib.measure.stats` makes an interval, a p-value or a bootstrap."""

import ast

from lib.core.paths import ROOT

TESTS = {
    "bootstrap",
    "ttest_1samp",
    "ttest_ind",
    "ttest_rel",
    "binomtest",
    "permutation_test",
    "sem",
    "mannwhitneyu",
    "wilcoxon",
    "ks_2samp",
    "chi2_contingency",
    "t",
    "norm",
    "monte_carlo_test",
}
ENDS = {0.025, 0.975, 2.5, 97.5, 1.96}
ALLOWED = {"lib/measure/stats.py", "lib/measure/geometry.py"}


def faults(source: str) -> list[str]:
    """Names and numbers of intervals in a module."""
    tree, modules, found = ast.parse(source), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "scipy":
            modules |= {name.asname or name.name for name in node.names if name.name == "stats"}
        if isinstance(node, ast.ImportFrom) and node.module == "scipy.stats":
            found += [name.name for name in node.names if name.name in TESTS]
        if isinstance(node, ast.Call) and _is_quantile(node):
            numbers = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            found += [f"quantile of {number}" for number in numbers & ENDS]
        if isinstance(node, ast.Constant) and node.value == 1.96:
            found.append("1.96")
    return found + [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name) and node.value.id in modules
                    and node.attr in TESTS]


def _is_quantile(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in (
        "quantile", "percentile", "nanquantile", "nanpercentile")


def test_faults_are_seen():
    assert faults("from scipy import stats\nstats.ttest_rel(a, b)") == ["ttest_rel"]
    assert faults("from scipy.stats import bootstrap, rankdata") == ["bootstrap"]
    assert faults("np.quantile(draws, [0.025, 0.975])") and faults("half = 1.96 * error")
    assert faults("from lib.measure import stats\nnp.quantile(x, 0.9)\nstats.share(x)") == []


def test_every_interval_comes_from_one_module():
    paths = sorted((ROOT / "lib").rglob("*.py"))
    wrong = {
        str(path.relative_to(ROOT)): faults(path.read_text(encoding="utf-8")) for path in paths
    }
    assert {name: what for name, what in wrong.items() if what and name not in ALLOWED} == {}
