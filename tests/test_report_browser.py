"""The write-up page in Chromium: every picture loads, nothing is asked of a network, nothing overflows, runs can be chosen."""

import shutil

import pytest
from test_report import leave_run

from keras_diffusion.report import page
from keras_diffusion.report.found import find

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
WIDTHS = (390, 820, 1440)


@pytest.fixture(scope="module")
def chromium():
    if BROWSER is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    with sync_api.sync_playwright() as playwright:
        # Without a sandbox it also runs as root, as CI does; the page is our own.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Pages of the same runs: beside its pictures, and as a single file."""
    place = tmp_path_factory.mktemp("browser")
    for part in ("1.2.1", "1.2.3", "2.2", "2.5"):
        leave_run(place / "runs" / f"part-{part}", part, size=(1600, 700))
    leave_run(place / "runs" / "a longer 'name' & #1", "2.5", epochs=5)
    leave_run(place / "runs" / "part-2.5-flow", "2.5", edition="flow")
    leave_run(place / "runs" / "part-2.5 & narrower", "2.5", width=16)
    for kind in ("files", "single"):
        page.write(
            *find(place / "runs"),
            out=place / kind,
            runs_folder=place / "runs",
            single_file=kind == "single",
        )
    return place


class Visit:
    """A page that was opened, with what it asked for and complained of."""

    def __init__(self, browser, path, **options):
        self.asked, self.complaints = [], []
        context = browser.new_context(**options)
        self.page = context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        self.page.wait_for_function("[...document.images].every((image) => image.complete)")

    def broken_images(self):
        return self.page.evaluate(
            "[...document.images].filter((image) => !image.naturalWidth).map((image) => image.src)"
        )

    def asked_of_a_network(self):
        return [url for url in self.asked if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("kind", ["files", "single"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_picture_loads_nothing_is_requested_and_nothing_overflows(
    chromium, reports, kind, width, scheme
):
    size = {"width": width, "height": 900}
    visit = Visit(chromium, reports / kind / "index.html", viewport=size, color_scheme=scheme)
    assert visit.page.evaluate("document.images.length") > 30
    assert visit.broken_images() == []
    assert visit.asked_of_a_network() == []
    assert visit.complaints == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.images].filter((i) => i.getBoundingClientRect().right > innerWidth).length"
    assert visit.page.evaluate(wide) == 0


@pytest.mark.parametrize("kind", ["files", "single"])
def test_any_two_runs_can_be_chosen(chromium, reports, kind):
    visit = Visit(chromium, reports / kind / "index.html")
    page = visit.page
    labels = page.locator("select[name=A] option").all_inner_texts()
    seen = set()
    for a, b in ((0, 1), (3, 1), (4, 2)):
        page.locator("select[name=A]").select_option(index=a)
        page.locator("select[name=B]").select_option(index=b)
        page.wait_for_function("document.getElementById('curves').complete")
        assert page.evaluate("document.getElementById('curves').naturalWidth") > 0
        seen.add(page.get_attribute("#curves", "src"))
        for side, chosen in (("A", a), ("B", b)):
            title = page.inner_text(f"#side-{side} h3")
            assert labels[chosen] == title
    assert len(seen) == (3 if kind == "files" else 2)  # two of the pairs have equal curves
    assert visit.broken_images() == [] and visit.complaints == []


def test_what_differs_is_marked_and_levels_of_different_targets_are_not_compared(chromium, reports):
    page = Visit(chromium, reports / "files" / "index.html").page
    names = page.locator("select[name=A] option").all_inner_texts()

    def choose(a, b):
        for side, name in (("A", a), ("B", b)):
            index = next(k for k, label in enumerate(names) if label.startswith(f"{name}: "))
            page.locator(f"select[name={side}]").select_option(index=index)
        marked = page.locator("#side-A .differs").evaluate_all(
            "rows => rows.map(r => r.dataset.fact)"
        )
        return marked, page.is_visible("#incomparable")

    marked, incomparable = choose("part-2.5", "a longer 'name' & #1")
    assert marked == ["epochs", "training time", "loss"] and not incomparable
    assert page.is_visible("#same-noise")
    assert page.inner_text(".key.one") == "a longer 'name' & #1"  # the one that comes first
    choose("part-2.5", "part-2.2")
    assert not page.is_visible("#same-noise")
    marked, incomparable = choose("part-2.5", "part-2.5-flow")
    assert "part" in marked and incomparable
    marked, _ = choose("part-2.5", "part-2.5")
    assert marked == [] and not page.is_visible("#curves") and page.is_visible("#same-run")


def test_a_link_brings_two_runs_together(chromium, reports):
    page = Visit(chromium, reports / "files" / "index.html").page
    page.locator("[data-pair]").first.click()
    chosen = page.locator("select option:checked").evaluate_all(
        "all => all.map(o => o.dataset.run)"
    )
    assert chosen == ["part-2.5", "part-2.5 & narrower"]
    assert page.inner_text("#side-B h3").startswith("part-2.5 & narrower: ")


def test_navigation_leads_to_each_part(chromium, reports):
    page = Visit(chromium, reports / "files" / "index.html").page
    links = page.locator("nav a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert len(links) == 14  # home, eleven parts, the comparison, what is missing
    for link in links:
        assert page.evaluate("id => document.getElementById(id) !== null", link[1:]), link


def test_without_javascript_and_on_paper_nothing_is_lost(chromium, reports):
    path = reports / "files" / "index.html"
    visit = Visit(chromium, path, reduced_motion="reduce")
    stills = visit.page.locator(".animation img").evaluate_all("all => all.map(i => i.currentSrc)")
    assert stills and all(source.endswith("_last.png") for source in stills)
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(path.as_uri())
    assert page.is_visible("#side-A h3") and page.is_visible("#curves")
    assert not page.is_visible(".choice")
    visit.page.emulate_media(media="print")
    assert not visit.page.is_visible("nav")
    visit.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = false))")
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for k in range(images := visit.page.locator("section img").count()):
        assert visit.page.locator("section img").nth(k).is_visible()
    assert images > 30


def test_animations_can_be_paused(chromium, reports):
    page = Visit(chromium, reports / "files" / "index.html").page
    image, button = page.locator(".animation img").first, page.locator(".pause").first
    moving = image.get_attribute("src")
    button.click()
    assert image.get_attribute("src").endswith("_last.png") and button.inner_text() == "Play"
    button.click()
    assert image.get_attribute("src").endswith(moving) and button.inner_text() == "Pause"
