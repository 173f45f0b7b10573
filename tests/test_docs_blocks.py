"""Every block of code in the documentation is run or compared by a test, or is listed here with the reason.

A page below belongs to the test beside it. A block in a language that the page's test does not take is in NOT_RUN.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^ *(```+)(\S*)[^\n]*\n(.*?)^ *\1 *$", re.DOTALL | re.MULTILINE)
BESIDE = ("README", "SECURITY", "CONTRIBUTING", "CODE_OF_CONDUCT", "CHANGELOG", "examples/README")
PAGES = [
    *(f"{page}.md" for page in BESIDE),
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
]
OF_THE_SITE = {"{toctree}", "{eval-rst}", "{include}"}
"""`scripts/docs` runs these."""

RUN: dict[str, dict[str, str]] = {
    "README.md": dict.fromkeys(["console", "python", "sh"], "tests/test_readme.py"),
    "docs/explanation/durability.md": {"python": "tests/test_docs_lines.py"},
    "docs/explanation/order.md": {"console": "tests/test_queues_docs.py"},
    "docs/how-to/access.md": dict.fromkeys(["console", "text"], "tests/command/test_docs_shown.py"),
    "docs/how-to/client.md": dict.fromkeys(["console", "python"], "tests/client/test_docs.py"),
    "docs/how-to/deploy.md": {"sh": "tests/test_docs_lines.py"},
    "docs/how-to/django.md": dict.fromkeys(["console", "python"], "tests/contrib/test_django_docs.py"),
    "docs/how-to/embedding.md": {"python": "tests/test_readme.py"},
    "docs/how-to/many-machines.md": {"python": "tests/engine/valkey/test_queues.py"},
    "docs/how-to/migrate.md": dict.fromkeys(["console", "python"], "tests/test_how_to.py"),
    "docs/how-to/programs.md": dict.fromkeys(["console", "python", "toml"], "tests/command/test_docs_shown.py"),
    "docs/how-to/retries.md": dict.fromkeys(["console", "python"], "tests/test_how_to.py"),
    "docs/how-to/scale.md": {"yaml": "tests/prometheus/test_keda.py"},
    "docs/how-to/snapshots.md": {"console": "tests/command/test_docs_shown.py"},
    "docs/how-to/sqs.md": {"python": "tests/sqs/test_docs.py", "yaml": "tests/command/test_docs_shown.py"},
    "docs/how-to/taskiq.md": {"python": "tests/contrib/test_taskiq_docs.py"},
    "docs/how-to/testing.md": {"python": "tests/test_testing.py", "console": "tests/command/test_docs_shown.py"},
    "docs/how-to/tracing.md": {"python": "tests/client/test_tracing.py"},
    "docs/how-to/watch.md": dict.fromkeys(["console", "json", "yaml"], "tests/command/test_docs_shown.py"),
    "docs/reference/command-line.md": {"console": "tests/command/test_command_line_docs.py"},
    "docs/reference/http.md": {"console": "tests/test_readme.py"},
    "docs/reference/queues.md": dict.fromkeys(["console", "python"], "tests/test_queues_docs.py")
    | {"toml": "tests/test_readme.py"},
    "docs/reference/settings.md": {"toml": "tests/test_readme.py"},
    "docs/tutorial/job-queue.md": dict.fromkeys(["console", "python", "sh", "text"], "tests/test_tutorial.py"),
}

LOOKED_AT = "tests/test_docs_lines.py looks at its flags and names"
SERVES = f"a server until it is stopped; {LOOKED_AT}"
PICTURE = "a picture of how parts follow each other"
NOT_RUN: dict[tuple[str, str], str] = {
    (
        "README.md",
        "./scripts/serve   # serves on port 8080 of all addresses",
    ): "tests/test_scripts.py runs it; the gate runs scripts/test",
    ("docs/explanation/durability.md", "zapq --durable --data-dir /var/lib/zapq"): SERVES,
    ("docs/explanation/inside.md", "the fast road: the message API, plainly written"): PICTURE,
    ("docs/explanation/inside.md", "read  ->  plan"): PICTURE,
    ("docs/explanation/inside.md", "target and JSON, or a form"): PICTURE,
    ("docs/how-to/client.md", "pip install --no-deps ."): "tests/client/test_needs.py",
    ("docs/how-to/access.md", "zapq --token-file /etc/zapq/tokens"): SERVES,
    (
        "docs/how-to/access.md",
        "zapq --addr :8443 --tls-cert",
    ): f"{SERVES}; tests/server/test_client_certificates.py",
    (
        "docs/how-to/access.md",
        "curl --cacert ca.pem",
    ): "needs certificates; tests/server/test_client_certificates.py",
    (
        "docs/how-to/deploy.md",
        "python3 -m venv /opt/zapq",
    ): "needs root and systemd; tests/test_deploy.py, tests/test_systemd.py",
    (
        "docs/how-to/deploy.md",
        "cp -r deploy/zapq.socket",
    ): "needs root and systemd; tests/test_deploy.py, tests/test_systemd.py",
    ("docs/how-to/deploy.md", "docker build"): "needs a daemon; tests/image builds and runs the image without one",
    ("docs/how-to/deploy.md", "docker run"): "needs a daemon; tests/image builds and runs the image without one",
    (
        "docs/how-to/deploy.md",
        "kubectl apply",
    ): "needs a cluster; scripts/lint checks the files, and tests/test_deploy.py",
    (
        "docs/how-to/django.md",
        "$ python manage.py zapq_worker",
    ): "runs until it is stopped; tests/contrib/test_django.py",
    ("docs/how-to/many-machines.md", "pip install '.[valkey]'"): f"installs, and serves; {LOOKED_AT}",
    ("docs/how-to/many-machines.md", "$ zapq snapshot save --url http://old"): f"two machines; {LOOKED_AT}",
    (
        "docs/how-to/programs.md",
        "export ZAPQ_WEBHOOK_SECRET",
    ): "a receiver elsewhere; tests/programs/test_forward.py",
    ("docs/how-to/programs.md", "zapq cron crontab.toml"): f"{LOOKED_AT}; tests/programs/test_cron.py",
    ("docs/how-to/scale.md", "zapq --queue emails"): SERVES,
    ("docs/how-to/scale.md", "ready=$(curl"): "needs jq; tests/prometheus/test_keda.py asks for the same figure",
    ("docs/how-to/snapshots.md", "zapq --snapshot-on-exit"): SERVES,
    (
        "docs/how-to/sqs.md",
        "$ zapq --addr :9324 --durable",
    ): "needs the AWS CLI; the example in Python does the same",
    ("docs/how-to/workers.md", "zapq --workers 4"): SERVES,
    ("docs/reference/command-line.md", "zapq top"): "a screen until Ctrl-C; tests/command/test_top.py",
    (
        "docs/reference/command-line.md",
        "ExecStartPre=",
    ): "a line for systemd; tests/command/test_config.py runs the command",
}


FILES = {
    "deploy/compose-single.yaml": "tests/test_deploy.py",
    "deploy/compose.yaml": "tests/engine/valkey/compose.py",
    "deploy/grafana/zapq.json": "tests/prometheus/board.py",
    "deploy/kubernetes/front-ends.yaml": "tests/test_deploy.py",
    "deploy/kubernetes/keda-age.yaml": "tests/prometheus/test_keda.py",
    "deploy/kubernetes/keda-depth.yaml": "tests/prometheus/test_keda.py",
    "deploy/kubernetes/server.yaml": "tests/test_deploy.py",
    "deploy/prometheus/alerts.yml": "tests/prometheus/test_alerts.py",
    "deploy/prometheus/prometheus.yml": "tests/prometheus/test_alerts.py",
    "deploy/zapq.service": "tests/test_systemd.py",
    "deploy/zapq.service.d/socket.conf": "tests/test_systemd.py",
    "deploy/zapq.socket": "tests/test_systemd.py",
    "examples/celery_app.py": "tests/judges/test_celery.py",
    "examples/django_site.py": "tests/contrib/test_examples.py",
    "examples/taskiq_app.py": "tests/contrib/test_examples.py",
}
"""What runs or judges each file that the pages hand out; `tests/test_examples.py` runs the other examples."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the first line of each block of a page."""
    return [
        (language, text.strip().partition("\n")[0])
        for _, language, text in BLOCK.findall((ROOT / page).read_text())
    ]


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_run_or_it_is_said_why_not(page: str) -> None:
    for language, first in blocks(page):
        known = any(page == each and first.startswith(begin) for each, begin in NOT_RUN)
        assert known or language in OF_THE_SITE or language in RUN.get(page, {}), (language, first)


def test_no_block_is_listed_that_is_not_there() -> None:
    for page, begin in NOT_RUN:
        assert any(first.startswith(begin) for _, first in blocks(page)), (page, begin)
    for page, tests in RUN.items():
        assert tests.keys() <= {language for language, _ in blocks(page)}, page


@pytest.mark.parametrize("page", RUN)
def test_each_test_of_a_page_reads_it(page: str) -> None:
    for test in RUN[page].values():
        stem = page.rpartition("/")[2].removesuffix(".md")
        assert re.search(rf"\b{re.escape(stem)}\b", (ROOT / test).read_text()), (page, test)


def test_each_reason_names_tests_that_are_there() -> None:
    for reason in NOT_RUN.values():
        for name in re.findall(r"(?:tests|scripts)/[\w/.]*\w", reason):
            assert (ROOT / name).exists(), name


def test_each_file_of_deploy_and_each_example_is_run_or_judged() -> None:
    files = [
        file for each in ("deploy", "examples") for file in sorted((ROOT / each).rglob("*.*")) if file.is_file()
    ]
    given = {str(file.relative_to(ROOT)) for file in files if file.suffix not in {".md", ".pyc"}}
    assert FILES.keys() <= given
    for name in given:
        test = (ROOT / FILES.get(name, "tests/test_examples.py")).read_text()
        stem = name.rpartition("/")[2]
        assert stem in test or f'"{stem.removesuffix(".py")}"' in test, name
