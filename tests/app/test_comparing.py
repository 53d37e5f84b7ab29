"""Two opinions on a document, compared token by token."""

import numpy as np
import pytest

from app.comparing import Agreement, Pair
from app.suggestions import TokenTable
from tests.app.reviewed import seed

URL = "/projects/medicine/documents/1"


@pytest.fixture
def seeded(settings, sessions, project) -> None:
    seed(settings, sessions, project)


def test_agreement_is_counted_by_hand():
    table = TokenTable(np.array([0, 3, 6, 9], np.int32), np.array([2, 5, 8, 11], np.int32), None, None)
    pair = Pair("a", [(0, 5)], "b", [(4, 7)])
    assert pair.agreement(table) == Agreement(both=1, only_a=1, only_b=1, neither=1)
    assert pair.disagreements(table).tolist() == [0, 6]


def test_kappa_is_0_by_chance_1_in_agreement_and_none_where_nothing_varies():
    assert Agreement(1, 1, 1, 1).kappa == 0
    assert Agreement(2, 0, 0, 2).kappa == 1
    assert Agreement(0, 0, 0, 4).kappa is None
    assert Agreement(0, 0, 0, 0).kappa is None


def test_the_page_shows_who_flags_what_and_suggests_the_disagreements(client, seeded):
    """Of "The patient was given 5 mg …" the rule flags words 2 and 3, the classifier 2 to 4."""
    page = client.get(f"{URL}?a=rule-1&b=classifier-1").text
    assert 'class="tk grown in-a in-b t7"' in page
    assert 'class="tk in-b t6" data-s="22" data-e="23" data-r="1"' in page
    assert "probe:1 alone" in page and "0.759" in page
    assert client.get(f"{URL}/text?a=rule-1&b=classifier-1").text in page


def test_gold_can_be_compared(client, seeded):
    client.post(f"{URL}/annotations", json={"version": 0, "action": "add", "start": 22, "end": 25})
    page = client.get(f"{URL}?a=gold&b=classifier-1").text
    assert 'class="tk in-a in-b t6"' in page


@pytest.mark.parametrize("query", ["a=rule-9&b=gold", "a=gold&b=classifier-9", "a=rule-x&b=gold", "a=gold&b=nonsense"])
def test_an_opinion_that_does_not_exist_is_404(client, seeded, query):
    assert client.get(f"{URL}?{query}").status_code == 404
