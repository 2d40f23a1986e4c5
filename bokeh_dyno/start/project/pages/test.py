"""The page /NAME of the site."""

from pathlib import Path

FOLDER = Path(__file__).parent.parent


def test_the_page_is_there(monkeypatch):
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(FOLDER)
    from flask_app import create_app

    answer = create_app().test_client().get("/NAME")
    assert answer.status_code == 200
    assert "<h1>TITLE</h1>" in answer.text
