"""The dashboard by HTTP: what it serves, and what it passes on."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from tests.dashboard_fixtures import ASKING, LiveSearch, ask, client_of, update, version
from tests.report_fixtures import make_experiment

pytest_plugins = ["dashboard_fixtures"]


def test_one_experiment_opens_its_own_page_with_its_data_inside(client: Client, search: LiveSearch) -> None:
    assert ask(client, "/", expected=302).location == "/experiments/0/"
    page = ask(client, "/experiments/0/").get_data(as_text=True)
    found = re.search(r'id="report-data">([^<]*)<', page)
    assert found is not None
    data = json.loads(gzip.decompress(base64.b64decode(found[1])))
    assert data["trials"]["name"] == [row.name for row in search.table.rows()]
    assert "<script>" not in page, "scripts come as files alone"


def test_only_known_addresses_are_answered(client: Client) -> None:
    for path in (
        *("/experiments/1/", "/experiments/-1/", "/experiments/x/", "/experiments/0/study.db", "/etc/passwd"),
        *("/experiments/0/../../etc/passwd", "/experiments/%2e%2e/", "/assets/x/..%2f..%2fcli.py", "/assets/x/page.py"),
        "/experiments/99999999999999999999/update",
    ):
        ask(client, path, expected=404)
    for path in ("/static/../_app.py", "/static/%2e%2e/_app.py", "/static/..%2f..%2fetc/passwd"):
        assert client.get(path, base_url="http://127.0.0.1").status_code in (403, 404)
    ask(client, "/compare/?with=7&with=-1&with=²&with=99999999999999999999&with=../x")


def test_text_from_the_data_is_escaped(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script>"
    folders = [make_experiment(tmp_path / name, hostile=attack) for name in ("a", "b")]
    client = client_of(*folders)
    for path in ("/", "/experiments/0/", "/compare/?with=0&with=1"):
        assert "<script>alert" not in ask(client, path).get_data(as_text=True)
    assert "<script>alert" not in update(client)["page"]


def test_experiments_that_appear_in_a_folder_are_listed_and_keep_their_addresses(
    search: LiveSearch, tmp_path: Path
) -> None:
    client = client_of(tmp_path / "experiments")
    before = version(client, "/version")
    LiveSearch(tmp_path / "experiments" / "a-first-one")
    assert version(client, "/version") != before
    page = ask(client, "/").get_data(as_text=True)
    assert re.findall(r'<a href="(/experiments/\d+/)">([^<]*)</a>', page) == [
        ("/experiments/0/", "small"),
        ("/experiments/1/", "a-first-one"),
    ]


@pytest.mark.parametrize(
    ("about", "what"),
    [
        ({}, None),
        ({"signature": "nrefs:2"}, "signature"),
        ({"languages": ["en", "fr"]}, "languages"),
        ({"directions": ["en-fr"]}, "directions"),
        ({"tokenizer": {"name": "flores101"}}, "tokenizer"),
    ],
)
def test_scores_that_cannot_be_compared_are_said_to_be(
    about: dict[str, Any], what: str | None, search: LiveSearch, tmp_path: Path
) -> None:
    other = LiveSearch(tmp_path / "other", **about)
    other.run_baselines()
    page = ask(client_of(search.folder.path, tmp_path / "other"), "/compare/?with=0&with=1").get_data(as_text=True)
    assert ("These scores cannot be compared." in page) == (what is not None)
    assert what is None or what in page


def test_test_sets_of_different_size_cannot_be_compared(search: LiveSearch, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "other")
    search.test("pretrained", 5.0)
    page = ask(client_of(search.folder.path, folder), "/compare/?with=0&with=1").get_data(as_text=True)
    assert "number of test sentences" in page


def test_optunas_dashboard_reads_all_studies_and_writes_none(search: LiveSearch, tmp_path: Path) -> None:
    other = LiveSearch(tmp_path / "experiments" / "other")
    other.run(3.0)
    client = client_of(tmp_path / "experiments")
    studies = ask(client, "/api/studies").get_json()["study_summaries"]
    numbers = {study["study_name"]: study["study_id"] for study in studies}
    assert set(numbers) == {"small", "small/baselines", "other", "other/baselines"}
    assert len(set(numbers.values())) == 4
    for name, known in (("small", search), ("other", other)):
        trials = ask(client, f"/api/studies/{numbers[name]}?after=0").get_json()["trials"]
        assert len(trials) == known.table.num_searched
    content = search.folder.study.read_bytes()
    for method, path in (("POST", "/api/studies"), ("DELETE", f"/api/studies/{numbers['small']}"), ("PUT", "/api/x")):
        ask(client, path, expected=405, method=method, json={}, headers=ASKING)
        ask(client, path, expected=403, method=method, json={})
    assert search.folder.study.read_bytes() == content
