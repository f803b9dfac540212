"""Real servers are held against their own description, by requests that it allows or not."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from support import tiny_graphs
from support.servers import started

WAIT = "X-Request-Timeout-Ms"
FEW, MANY = 15, 400
# What an image is, and which models there are, no schema can tell: a request may be
# refused for either though it is as described.
UNTOLD = [positive_data_acceptance]


@pytest.mark.real
@pytest.mark.parametrize("script", ["app.py", "app_classify.py"])
def test_answers_are_as_described_whatever_is_asked(
    script, folder, uploads, tmp_path, pytestconfig
):
    """Status, type, headers and body; nothing that is not allowed is taken."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    (folder / "m.labels.txt").write_text("red\ngreen\nblue\n")
    examples = MANY if pytestconfig.getoption("--slow") else FEW
    with started(script, folder=folder, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
        statuses = set()
        for found in schema.get_all_operations():
            statuses |= _try(found.ok(), examples)
        assert {200, 400, 404} <= statuses
        server.wait()


def _try(operation, examples):
    """Send requests for one operation; give the statuses that were answered."""
    statuses = set()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    def run(case):
        if isinstance(case.body, dict) and case.body.get("modelname"):
            case.body["modelname"] = ["m"]
        # Who waits for a millisecond gets the 504 that was asked for.
        if (case.headers or {}).get(WAIT, "").isdecimal():
            case.headers[WAIT] = "30000"
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, excluded_checks=UNTOLD)

    run()
    return statuses
