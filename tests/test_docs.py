"""The documentation is true: its commands run, or the reason why they cannot here is known; the site of it can be built.

An indented block of a page is commands, and so is one in a fence of `sh`; what is something else has a fence that says so.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import urlopen

import pytest
from dyno_under_test import ROOT, Dyno, copy_project, free_port, temporary_folder, wait_for

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = "it is run below"
SERVE = "it is started below, and stopped"
HEROKU = "cannot: needs a Heroku account"
ENGINE = "cannot: needs Docker; the image and compose.yaml: tests/test_containers.py"
CLUSTER = "cannot: needs a cluster; the manifests: tests/test_kubernetes.py"
SYSTEMD = "cannot: needs root, and a machine with systemd; the unit: tests/test_systemd.py"
ACCOUNT = "cannot: needs an account; the file: tests/test_platforms.py"
TESTS = "cannot: takes minutes; .ci/run does it"
# how each command is tried: the first pattern that begins it says so
HOW = {
    r"bin/(server|dev)$": SERVE,
    r"bin/(new-app|new-page) (NAME|rain)$": RUN,
    r"bin/new-app \S+ --from (panel|notebook)$": "its packages may be missing: tests/test_new.py",
    r"bin/test tests/test_rain": RUN,
    r"bin/test( --bokeh \S+)?( tests/\S+( -k \S+)?)?$": TESTS,
    r"(bin/lint|\.ci/run)$": TESTS,
    r"bin/setup$": "bin/test runs it before all of this",
    r"bin/doctor": "tests/test_doctor.py",
    r"git add": RUN,
    r"kill -(HUP|USR2) \$\(cat run/lock\)$": RUN,
    r"KEY=": RUN,
    r"cp \S+\.example \S+$": RUN,
    r'"\$EDITOR" ': RUN,
    r"cd deploy/kubernetes$": RUN,
    r"sed 1d requirements-redis\.txt": RUN,
    r"(git clone URL|cd) plots$": "bench/first_minutes does it",
    r"BOKEH_SECRET_KEY=\$KEY .*bin/server$": "a terminal each: tests/test_tiers.py",
    r"(pip install vendor/|bokeh-dyno init)": "tests/test_init.py",
    r"curl .*/metrics$": "tests/test_metrics.py",
    r"heroku ": HEROKU,
    r"git push (heroku )?main$|git push$": HEROKU,
    r"(docker|for n in 1 2 3; do docker|pack) ": ENGINE,
    r"kubectl ": CLUSTER,
    r".*(systemctl|journalctl|useradd|bokeh-dyno \.env|/srv/|/etc/systemd|/run/bokeh-dyno)": SYSTEMD,
    r"(az|fly|gcloud|doctl|railway) |ssh dokku@SERVER |git push dokku@": ACCOUNT,
    r"python3 -c .*\| gcloud ": ACCOUNT,
    r"\w+=\$\(az ": ACCOUNT,
    r"(KEY\(\)|sed) ": "tests/test_platforms.py",
    r"{{ bokeh_app\(": "a line of a template: tests/test_pages.py",
}
# what people see and search for, each a row of the page
SYMPTOMS = """Mixed Content; WebSocket is refused with 403; Lost websocket connection; H10; R10; BOOT_TIMEOUT; R14; H12; H13; H15;
502; 413; 400 (Request Header Or Cookie Too Large); Token is expired; wss://; blank place; version mismatch; `static/…` is 404
under a prefix; app runs twice; .env; works here, but not on Heroku; erb: not found; fork and threads"""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the blocks of a page: the language of the fence, `sh` for an indented block, and the text."""
    fence, lines, before = "", [], ""
    text = re.sub(r"<!-- nginx -->.*?<!-- /nginx -->", "", page.read_text(), flags=re.DOTALL)  # tests/test_dynos.py
    for line in [*text.splitlines(), ""]:
        if mark := re.match(r"\s*```(\w*)", line):
            if fence:
                yield fence, "\n".join(lines)
            fence, lines = ("" if fence else mark[1] or "text"), []
        elif fence or (re.match(r" {4}", line) and (lines or not before.strip())):
            lines.append(line)
        elif lines:
            yield "sh", "\n".join(lines)
            lines = []
        before = line


def commands(block: str) -> list[str]:
    """Return the commands of a block, without their comments; each may have several lines."""
    found, begun = [], ""
    for line in block.splitlines():
        begun += ("\n" if begun else "") + line
        try:
            shlex.split(begun, comments=True)
        except ValueError:  # within quotes
            continue
        if not begun.endswith("\\"):
            found.append(re.sub(r"\s+# .*$", "", begun).strip())
            begun = ""
    assert not begun, f"has no end: {begun}"
    return [one for one in found if one]


def how(command: str) -> str:
    """Return how a command is tried, "" when nobody knows."""
    return next((how for pattern, how in HOW.items() if re.match(pattern, command)), "")


def pages_with(*kinds: str) -> list[str]:
    """Return the pages that have commands tried in one of these ways."""
    return [
        str(page.relative_to(ROOT))
        for page in PAGES
        if any(how(one) in kinds for language, text in blocks(page) if language == "sh" for one in commands(text))
    ]


def test_each_command_is_tried_or_the_reason_is_known() -> None:
    everything = [
        (page, one) for page in PAGES for language, text in blocks(page) if language == "sh" for one in commands(text)
    ]
    assert len(everything) > 100
    unknown = [f"{page.relative_to(ROOT)}: {one}" for page, one in everything if not how(one)]
    assert unknown == [], "say in HOW how they are tried, or begin the block with ``` and what it is"
    for pattern, reason in HOW.items():
        assert any(re.match(pattern, one) for _, one in everything), f"no command begins with {pattern}"
        for name in re.findall(r"\b(?:tests|bench)/[\w.]+", reason):
            assert (ROOT / name).exists(), reason


def test_what_a_sentence_names_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"`(?:\S+=\S* )*((?:bin|tests|bench)/[\w.-]+)[ `]", page.read_text()):
            known = {"bin/prometheus"}  # somebody's own
            assert name in known or (ROOT / name).exists() or list(ROOT.glob(f"{name}.*")), f"{page.name}: {name}"


def test_what_is_run_by_its_name_in_a_sentence_is_there() -> None:
    usage = subprocess.run([sys.executable, "-m", "bokeh_dyno", "--help"], cwd=ROOT, capture_output=True, text=True)
    commands = re.findall(r"bokeh-dyno ([\w-]+)", usage.stdout)
    found = []
    for page in PAGES:
        for module, name in re.findall(r"`(?:python3? -m ([\w.]+)|bokeh-dyno) ?([a-z-]*)", page.read_text()):
            found.append(module or name)
            if module in ("", "bokeh_dyno"):
                assert name in ("", *commands), f"{page.name}: {name}"
            else:
                place = ROOT.joinpath(*module.split("."))
                assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), f"{page.name}: {module}"
    assert len(found) > 5


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A copy of the example, a repository as it is cloned; of bin/setup, which has run before any test, nothing is left."""
    scratch = temporary_folder()
    folder = copy_project(scratch / "plots")
    (folder / "bin" / "setup").write_text("#!/bin/sh\n")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "tests").mkdir()
    with (folder / ".gitignore").open("a") as file:
        file.write("/.venv\n")
    git = "git init -q && git add . && git commit -q -m 'As it was cloned'"
    subprocess.run(["bash", "-c", git], cwd=folder, env=environment(folder), check=True)
    yield folder
    shutil.rmtree(scratch)


def environment(folder: Path, **further: str) -> dict[str, str]:
    """Return what commands of the docs are run with."""
    names = {f"GIT_{who}_{what}": "visitor" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, **names, "HOME": str(folder.parent), "EDITOR": "cat", **further}


def run(folder: Path, script: str) -> None:
    """Run commands of a block in one shell, as somebody who copies them would."""
    result = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, f"{script}\n{result.stdout}{result.stderr}"


def put_back(folder: Path) -> None:
    """Undo what commands have changed."""
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=folder, check=True)
    subprocess.run(["git", "clean", "-q", "-d", "-f"], cwd=folder, check=True)


@pytest.mark.parametrize("page", pages_with(RUN, SERVE))
def test_the_commands_of_a_page_work_one_after_the_other(page: str, place: Path) -> None:
    servers: list[Dyno] = []
    put_back(place)
    try:
        for language, text in blocks(ROOT / page):
            script = []
            for command in commands(text) if language == "sh" else []:
                if how(command) == SERVE or (command.startswith("kill") and not servers):
                    for one in servers:  # the terminal in which one was has another now
                        one.stop()
                    server = command if how(command) == SERVE else "bin/server"
                    servers = [Dyno(place, {"HOME": str(place.parent)}, ["bash", "-c", f"exec {server}"]).start()]
                elif how(command) == RUN:
                    script.append(command)
            if script:
                run(place, "\n".join(script))
            if any(command.startswith("kill") for command in script):
                servers[0].wait_until_it_answers()
        if page == "docs/start.md":
            assert (place / "bokeh_app" / "rain" / "main.py").exists()
            for path in ("/apps/rain", "/rain", "/bkapp/rain"):
                wait_for(path, lambda path=path: servers[0].get(path).status == 200, 30)
        for one in servers:
            assert one.stop() == 0, one.log()
        if page == "docs/state.md":
            assert re.search(r"(?m)^rq==", (place / "requirements.txt").read_text())
    finally:
        for one in servers:
            one.clean_up()


def test_python_in_the_docs_is_python() -> None:
    found = [(page, text) for page in PAGES for language, text in blocks(page) if language == "python"]
    assert found
    for _, text in found:
        ast.parse(text)


def test_what_people_see_is_a_row_of_troubleshooting() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:2] == "| "
    ]
    for symptom in " ".join(SYMPTOMS.split()).split("; "):
        assert [row for row in rows if symptom in row[0]], f"there is no row for {symptom}"
    assert [row[0] for row in rows if len(row) != 3 or not all(row)] == []


def test_readme_is_short_and_its_picture_small() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    for name in re.findall(r'<img src="([^"]+)"', text):
        assert (ROOT / name).stat().st_size <= 250_000


def test_the_table_of_what_to_choose_is_what_the_benchmark_writes() -> None:
    from bench import choice
    from bench.tables import Table

    table = Table("", "")
    back = {"alive s": 1.04, "kB": 4123.4, "one port": 1.0, "comes back": 1.0, "values kept": 1.0, "after s": 0.2}
    table.add("a", back)
    table.add("b", {**back, "after s": 4.4, "values kept": 0.0, "one port": 0.0})
    table.add("c", {**back, "comes back": 0.0})
    table.add("d", back)
    table.failures["d"] = "502"
    *head, first, second, third = choice.summary(table, "today").splitlines()
    assert first == "| a | comes back at once, its values are kept | 1.0 | 4,123 | yes |"
    assert second == "| b | comes back after 4 s, its values are lost | 1.0 | 4,123 | no |"
    assert third == "| c | is lost | 1.0 | 4,123 | yes |"
    text = (ROOT / "README.md").read_text().partition("<!-- choice -->")[2].partition("<!-- /choice -->")[0]
    assert head[2] in text.splitlines()
    for name in choice.CHOICES:
        assert f"| {name.partition(' (')[0]}" in text


# --- the site -----------------------------------------------------------------------------------------------------------


class Loaded(HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe") or (tag == "link" and "stylesheet" in (given.get("rel") or "")):
            self.addresses.append(given.get("src") or given.get("href") or "")


def test_the_site_is_built_without_a_warning_and_can_be_searched(page) -> None:
    port = free_port()
    server = subprocess.Popen(
        [ROOT / "bin" / "docs", "serve"], env={**os.environ, "PORT": str(port)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        lines = [next(server.stdout, "")]
        while lines[-1] and not lines[-1].startswith("docs: build/docs/index.html"):
            lines.append(next(server.stdout, ""))
        assert lines[-1], "".join(lines)
        wait_for("the site", lambda: answers(f"http://127.0.0.1:{port}/"))
        page.goto(f"http://127.0.0.1:{port}/search.html?q=eval+policy")
        page.get_by_role("link", name="Operate").first.wait_for()
        page.close()  # it goes on to ask for what it has found
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.stdout.close()
        server.wait()
    built = sorted((ROOT / "build" / "docs").rglob("*.html"))
    assert len(built) > len(PAGES)
    for path in built:
        parser = Loaded()
        parser.feed(path.read_text())
        assert [one for one in parser.addresses if re.match(r"(\w+:)?//", one)] == [], path


def answers(url: str) -> bool:
    """Return whether there is a page."""
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_link_that_leads_nowhere_fails_the_build(scratch: Path) -> None:
    folder = copy_project(scratch / "app")
    (folder / ".venv-docs").symlink_to(ROOT / ".venv-docs")
    with (folder / "docs" / "start.md").open("a") as file:
        file.write("\n[there](nowhere.md)\n")
    subprocess.run([ROOT / "bin" / "docs"], check=True, capture_output=True)  # its packages
    result = subprocess.run([folder / "bin" / "docs"], capture_output=True, text=True)
    assert result.returncode != 0
    assert "nowhere.md" in result.stderr
