"""The shipped ServingRuntime of KServe: what it says, by KServe's rules and by ours."""

import copy
from pathlib import Path

import click
import jsonschema_rs
import pytest
import yaml

from modelserver.core.settings import Settings
from modelserver.tools.cli import main
from modelserver.web.dialects.table import DIALECTS
from support.kserve_runtimes import SCHEMA

FILE = Path(__file__).parents[2] / "deploy" / "kserve-runtime.yaml"


@pytest.fixture
def runtime():
    """Return the file's content."""
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def container(runtime):
    """Return its only container."""
    (found,) = runtime["spec"]["containers"]
    return found


def test_it_is_a_serving_runtime_by_kserves_schema(runtime):
    """In some 25 lines."""
    jsonschema_rs.validator_for(SCHEMA).validate(runtime)
    lines = FILE.read_text().splitlines()
    assert sum(not line.lstrip().startswith("#") for line in lines) <= 25


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "protocolVersions"), ["v3"]),
        (("spec", "protocols"), ["v2"]),
        (("spec", "containers", 0, "name"), "main"),
        (("spec", "containers", 0, "env", 3, "value"), 8080),
        (("spec", "containers", 0, "ports", 0, "containerPort"), "8080"),
        (("spec", "containers", 0, "resources", "limits", "memory"), "4 GB"),
        (("spec", "supportedModelFormats", 0, "version"), 1),
        (("apiVersion",), "serving.kserve.io/v1beta1"),
    ],
)
def test_what_kserve_would_refuse_or_drop_is_noticed(runtime, path, value):
    """So the check can fail."""
    changed = copy.deepcopy(runtime)
    *parents, last = path
    place = changed
    for each in parents:
        place = place[each]
    place[last] = value
    assert not jsonschema_rs.validator_for(SCHEMA).is_valid(changed)


def test_it_speaks_v2_where_kserve_puts_the_models(runtime, container):
    """Each variable is a setting that the server takes together with the others."""
    assert "v2" in runtime["spec"]["protocolVersions"]
    environ = {one["name"]: one["value"] for one in container["env"]}
    settings = Settings.from_environ(environ)
    assert str(settings.model_folder) == "/mnt/models"
    assert settings.upload_folder.is_absolute()
    assert (settings.host, settings.allow_anonymous) == ("0.0.0.0", True)
    (port,) = container["ports"]
    assert port["containerPort"] == settings.port
    assert runtime["spec"]["annotations"] == {
        "prometheus.kserve.io/port": str(settings.port),
        "prometheus.kserve.io/path": "/metrics",
    }
    probe = container["readinessProbe"]["httpGet"]
    assert probe["port"] == settings.port
    (route,) = (one for one in DIALECTS["v2"].routes if one.path == probe["path"])
    assert route.is_open


def test_it_runs_without_roots_rights(container):
    """As no root, and with no way to become one."""
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_its_command_serves_the_models_of_both_tasks(container):
    """As the command line takes it."""
    assert container["command"][:3] == ["python", "-m", "modelserver"]
    context = click.Context(main, info_name="modelserver")
    name, *arguments = container["command"][3:]
    command = main.get_command(context, name)
    assert command.make_context(name, arguments).params["task"] == "all"
