"""The rule as a prediction, which sets judge which baseline, and how the tables show it."""

from app.baselines import rule_predictions, scores
from app.comparisons import compared
from app.evaluations import evaluations
from app.results import results_table
from labeling.documents import Document
from tests.app.reviewed import TABLE


def test_the_rules_spans_become_a_prediction_of_every_word():
    (found,) = rule_predictions([Document("a", "one two three", spans=[(2, 7)])])
    assert found["tokens"] == [[0, 3, 1.0], [4, 7, 1.0], [8, 13, 0.0]]
    assert found["spans"] == [[2, 7]]


def test_the_rule_is_judged_by_people_only(tmp_path, monkeypatch):
    monkeypatch.setattr("labeling.baselines.NAMES", ("terms",))
    weak, gold = Document("a", "one two", "f", "retain", spans=[(0, 3)]), Document("a", "one two", "f", spans=[(4, 7)])
    line = '{"id": "a", "spans": [[0, 3]], "tokens": [[0, 3, 0.9], [4, 7, 0.1]]}\n'
    (tmp_path / "terms.jsonl").write_text(line)
    found = scores(tmp_path, {"test": [weak], "validation": [], "gold": [gold]}, [weak])
    assert set(found["rule"]) == {"gold"} and found["rule"]["gold"]["f1"] == 0.0
    assert found["terms"]["test"]["f1"] == 1.0 and set(found["terms"]) == {"test", "gold"}
    assert "pr_curve" not in found["terms"]["test"]


def test_tables_hold_the_classifier_first_then_its_baselines():
    info = {
        "test": TABLE,
        "baselines": {"tfidf": {"test": {**TABLE, "f1": 0.3}}, "terms": {"test": {**TABLE, "f1": 0.2}}},
    }
    (table,) = evaluations(info)
    rows = compared(table, info)
    assert [row.f1 for row in rows] == [0.62, 0.2, 0.3]
    assert rows[0].worst_fpr == 0.1 and rows[1].f1_interval == (0.5, 0.7)
    assert compared(table, {"test": TABLE}) == []


def test_the_results_table_names_what_stands_beside_the_classifier():
    told = {**TABLE, "intervals": dict.fromkeys(("f1", "fpr"))} | {
        "families": {"sport": {**TABLE["families"]["sport"], "intervals": dict.fromkeys(("fpr",))}}
    }
    shown = results_table({"test": told, "baselines": {"terms": {"test": told}}})
    assert "test, beside its baselines (the rule made these labels" in shown and "\nterms" in shown
    assert "import more text" in results_table({"test": told, "baselines_missing": "import more text"})
    assert results_table({}) == "not evaluated yet"
