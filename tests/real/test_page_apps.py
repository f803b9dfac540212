"""The page of the other app, with a token, without scripts, and its code, run."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.browser import served, watching
from support.servers import ROOT, wait_for
from support.tiny_graphs import write

pytestmark = pytest.mark.real

TOKEN = "choose-a-long-one"
RED = photo((250, 20, 20), (64, 48))
BLACK = photo((0, 0, 0), (64, 48))
PLAIN_FILE = {"name": "photo.png", "mimeType": "image/png", "buffer": RED}
# What a shell, curl, Python or JavaScript could take for something of its own.
ODD = "it's $HOME; `id` \"\\ é @<"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A detector and a classifier, and each again under an odd name."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("m", ODD):
        write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
        (folder / f"{name}.label_map.pbtxt").write_text('item { id: 26 name: "red" }\n')
        write(folder / f"{name}.pb", tiny_graphs.classifier())
        (folder / f"{name}.labels.txt").write_text("red\ngreen\nblue\n")
    write(folder / "several.pb", tiny_graphs.multi_label_classifier())
    return folder


@pytest.fixture
def opened(browser, models, uploads):
    """A function that serves an app and opens its page; nothing goes wrong there."""
    with ExitStack() as stack:

        def open_(kind="detection", look=None, **environ):
            url = stack.enter_context(served(kind, models, uploads, **environ))
            watch = stack.enter_context(watching(browser))
            watched = watch(url, **(look or {}))
            watched.open()
            return watched

        yield open_


def test_a_classifier_says_what_is_in_the_photo(opened):
    """Its class, and no boxes nor slider, which would mean nothing."""
    watched = opened("classification")
    watched.page.select_option("#model", "m")
    watched.choose(("photo.png", RED))
    page = watched.page
    assert page.locator("tbody th").first.text_content() == "red"
    assert page.locator(".badge").text_content() == "red"
    assert page.locator("#confidence").count() == page.locator(".box").count() == 0
    assert "photo.png, m: red" in page.locator("#live").text_content()
    assert page.locator("tbody tr").count() == 3
    shares = page.locator("tbody td").all_text_contents()
    assert all(re.fullmatch(r"\d+ %", share) for share in shares)
    assert "top_k=5" in page.locator("#same-code").text_content()


BOTH = "detection classification"
DETECTOR, CLASSIFIER = "detection/m", "classification/m"


def test_models_of_both_tasks_are_asked_on_one_page(opened):
    """Those of one name are told apart, and each is asked at its own task's route."""
    watched = opened(BOTH)
    page = watched.page
    groups = page.locator("#model optgroup")
    assert [one.get_attribute("label") for one in groups.all()] == [
        "Classification",
        "Detection",
    ]
    page.select_option("#model", CLASSIFIER)
    watched.choose(("photo.png", RED))
    assert page.locator("h3").text_content() == "m (classification)"
    assert page.locator(".badge").text_content() == "red"
    assert page.locator(".box").count() == 0
    assert "/classify" in page.locator("#same-code").text_content()
    page.select_option("#model", DETECTOR)
    page.wait_for_selector(".box:visible")
    assert page.locator("h3").text_content() == "m (detection)"
    assert "/detect" in page.locator("#same-code").text_content()
    posts = [path for verb, path in watched.asked if verb == "POST"]
    assert posts == ["/classify", "/detect"]


def test_models_of_both_tasks_stand_side_by_side(opened):
    """The slider is the detectors' alone."""
    watched = opened(BOTH)
    page = watched.page
    page.select_option("#model", label="All models, side by side")
    watched.choose(("photo.png", RED))
    page.locator("#confidence").fill("1")
    wait_for(lambda: page.locator(".result tbody").count() == 5, "all are answered")
    for model, shown in ((DETECTOR, 0), (CLASSIFIER, 3)):
        rows = page.locator(f'.result[data-model="{model}"] tbody tr:visible')
        assert rows.count() == shown


def test_both_tasks_need_no_script(browser, models, uploads):
    """A button for each task sends the form there."""
    with served(BOTH, models, uploads) as url:
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        for kind in BOTH.split():
            page.goto(url)
            page.select_option("#model", "m")
            page.set_input_files("#file", files=[PLAIN_FILE])
            page.get_by_role("button", name=f"Send for {kind}").click()
            answer = page.locator("body").text_content()
            assert ("bounding_box" in answer) == (kind == "detection")
            assert "red" in answer
        context.close()


def test_no_class_is_said_where_none_holds(opened):
    """Of classes that do not exclude each other; their shares are shown all the same."""
    watched = opened("classification")
    watched.page.select_option("#model", "several")
    watched.choose(("photo.png", BLACK))
    page = watched.page
    assert page.locator(".badge").text_content() == "none"
    assert page.locator(".count").text_content() == "None at 50 % or above."
    assert page.locator("tbody tr").count() == 3
    assert "several: None at 50 %" in page.locator("#live").text_content()


def test_what_is_below_the_servers_threshold_can_be_looked_at(opened):
    """At first the page shows what the API answers; the rest is there already."""
    watched = opened(MIN_CONFIDENCE=0.8)
    page = watched.page
    page.select_option("#model", "m")
    watched.choose(("photo.png", RED))
    assert page.locator(".count").text_content() == "1 object at 80 % or above, 2 below"
    page.locator("#confidence").fill("0.05")
    assert page.locator(".box:visible").count() == 3
    assert watched.posts() == 1


def test_a_token_is_asked_for_and_kept_in_the_tab(opened):
    """Models are named to who has it; it goes nowhere but into the header."""
    watched = opened(API_TOKEN=TOKEN)
    page = watched.page
    field = page.get_by_label("API token")
    assert page.locator("#token:focus").count() == 1
    assert page.locator("#model option").count() == 0
    field.fill("wrong")
    field.press("Enter")
    page.get_by_text("The server does not take this token.").wait_for()
    field.fill(TOKEN)
    field.press("Enter")
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "m")
    assert field.is_hidden()
    watched.choose(("photo.png", RED))
    assert page.locator("tbody th").first.text_content() == "red"
    for radio in page.locator("input[name=language]").all():
        radio.check()
        code = page.locator("#same-code").text_content()
        assert re.search("API_TOKEN|token }", code)
        assert TOKEN not in code
    assert TOKEN not in page.content()
    assert all(TOKEN not in path for _, path in watched.asked)
    kept = page.evaluate("() => [JSON.stringify(localStorage), document.cookie]")
    assert kept == ["{}", ""]
    page.reload()
    page.locator("#model option").first.wait_for(state="attached")
    page.get_by_role("button", name="Forget it").click()
    assert field.is_visible()
    assert page.evaluate("() => sessionStorage.length") == 0


def test_a_token_that_is_no_longer_good_is_asked_for_again(opened):
    """The photo is then asked about by itself."""
    watched = opened(API_TOKEN=TOKEN)
    page = watched.page
    field = page.get_by_label("API token")
    field.fill(TOKEN)
    field.press("Enter")
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "m")
    page.route("**/detect", lambda route: route.fulfill(status=401), times=1)
    page.locator("#file").set_input_files(
        [{"name": "photo.png", "mimeType": "image/png", "buffer": RED}]
    )
    page.locator(".problem").wait_for()
    field.fill(TOKEN)
    field.press("Enter")
    page.locator(".result table").wait_for()


def test_without_scripts_the_form_is_sent_and_the_json_shown(opened):
    """As any form."""
    page = opened(look={"java_script_enabled": False}).page
    assert page.locator("#confidence-field").is_hidden()
    assert page.locator("#camera-open").is_hidden()
    page.locator("#model").select_option("m")
    page.locator("#file").set_input_files(
        [{"name": "photo.png", "mimeType": "image/png", "buffer": RED}]
    )
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/detect")
    assert '"label":"red"' in page.locator("body").inner_text()


def test_models_that_load_are_looked_at_again(opened):
    """Until they serve; what is shown meanwhile stays."""
    watched = opened()
    page = watched.page
    models = '{"models": [{"name": "m", "state": "%s"}]}'
    states = iter(("LOADING", "LOADING", "READY"))
    page.clock.install()
    page.route(
        "**/models", lambda route: route.fulfill(body=models % next(states, "READY"))
    )
    page.route("**/", lambda route: route.fulfill(body=shown(route), headers=HTML))
    watched.open()
    assert page.locator("#model option").first.text_content() == "m (loading)"
    wait_for(lambda: ticked(page) == "m", "it is ready")
    assert sum(path == "/models" for _, path in watched.asked) == 3


HTML = {"Content-Type": "text/html"}


def shown(route):
    """The page, as it is while the only model loads."""
    body = route.fetch().text()
    one = '<option value="m" data-state="LOADING">m (loading)</option></select>'
    return re.sub(r"<option.*?</select>", one, body, flags=re.DOTALL)


def ticked(page):
    """Let two seconds pass on the page; gives what the first model is called then."""
    page.clock.run_for(2000)
    return page.locator("#model option").first.text_content()


def code_of(watched, language, name):
    """The page's code in a language for the odd model and a photo of a name."""
    page = watched.page
    page.select_option("#model", ODD)
    watched.choose((name, RED))
    page.locator(f"input[value={language}]").check()
    return page.locator("#same-code").text_content()


@pytest.mark.parametrize("kind", ["detection", "classification"])
@pytest.mark.parametrize("language", ["curl", "client", "requests", "node"])
def test_the_code_that_is_copied_works(opened, kind, language, tmp_path):
    """As it stands, whatever is in the names, with a token too."""
    if language in {"curl", "node"} and not shutil.which(language):
        pytest.skip(f"{language} is not here")
    if language == "requests":
        pytest.importorskip("requests")
    watched = opened(kind, API_TOKEN=TOKEN)
    watched.page.get_by_label("API token").fill(TOKEN)
    watched.page.get_by_label("API token").press("Enter")
    watched.page.locator("#model option").first.wait_for(state="attached")
    name = f"{ODD}.png"
    code = code_of(watched, language, name)
    (tmp_path / name.replace("/", "")).write_bytes(RED)
    node = ["node", "--input-type=module", "-e", code]
    commands = {"curl": ["sh", "-c", code], "node": node}
    done = subprocess.run(
        commands.get(language, [sys.executable, "-c", code]),
        cwd=tmp_path,
        env={"API_TOKEN": TOKEN, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "red" in done.stdout, (code, done.stdout, done.stderr)


def test_the_code_for_pages_works(opened):
    """Pasted into the console, it adds a field and answers what is chosen there."""
    watched = opened()
    page = watched.page
    code = code_of(watched, "javascript", f"{ODD}.png")
    page.evaluate(code)
    page.evaluate(code)  # twice is no error
    with page.expect_console_message() as said:
        page.locator("body > input[type=file]").first.set_input_files([PLAIN_FILE])
    assert json.loads(said.value.text)[0]["label"] == "red"


LANGUAGES = ("curl", "client", "requests", "node")


def test_the_code_asks_the_same_models_about_the_same_photos(opened, tmp_path):
    """Several of both, of both tasks, in each language; copying shows that it did."""
    if not shutil.which("curl") or not shutil.which("node"):
        pytest.skip("curl or node is not here")
    pytest.importorskip("requests")
    watched = opened(BOTH)
    page = watched.page
    page.select_option("#model", label="All models, side by side")
    names = ("first.png", f"{ODD}.png")
    watched.choose(*((name, RED) for name in names))
    for name in names:
        (tmp_path / name).write_bytes(RED)
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    for language in LANGUAGES:
        page.locator(f"input[value={language}]").check()
        code = page.locator("#same-code").text_content()
        command = {
            "curl": ["sh", "-c", code],
            "node": ["node", "--input-type=module", "-e", code],
        }.get(language, [sys.executable, "-c", code])
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        # Two detectors and three classifiers, each asked about two photos.
        lines = len(done.stdout.splitlines())
        count = lines if language == "client" else done.stdout.count("model")
        assert count == 10, (code, done.stdout, done.stderr)
        assert "error" not in done.stdout, (code, done.stdout)
    page.locator("#same-copy").click()
    page.locator("#same-copy", has_text="Copied ✓").wait_for()
