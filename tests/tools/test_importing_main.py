"""The conversion's own process."""

import numpy as np
from click.testing import CliRunner

from modelserver.tools.importing import ssdlite
from modelserver.tools.importing.__main__ import main
from support import tfjs_models as made


def detector(folder):
    """A small detector's graph model."""
    return made.detector(folder, np.array([[0, 0, 1, 1]]), np.array([[0.9, 0.1]]))


def test_a_model_is_converted_into_a_file(tmp_path):
    """The frozen graph is written to the target."""
    source, target = detector(tmp_path / "model"), tmp_path / "x.frozen.pb"
    result = CliRunner().invoke(main, ["ssdlite", str(source), str(target)])
    assert result.exit_code == 0
    assert target.read_bytes() == ssdlite.convert(source)


def test_a_broken_model_is_one_sentence(tmp_path):
    """A model that cannot be converted ends the process with the reason."""
    target = tmp_path / "x.pb"
    result = CliRunner().invoke(main, ["efficientnet", __file__, str(target)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: test_importing_main.py is not a whole")
    assert not target.exists()


def test_an_unwritable_target_is_one_sentence(tmp_path):
    """A target that cannot be written is named."""
    source, target = detector(tmp_path / "model"), tmp_path / "no" / "x.pb"
    result = CliRunner().invoke(main, ["ssdlite", str(source), str(target)])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {target}: No such file or directory\n"
