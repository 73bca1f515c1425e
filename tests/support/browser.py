"""A real browser for tests: Debian's chromium without a window, driven over its debugging protocol.

It can't reach another host: names aren't resolved, and only the loopback is left. It keeps every
address that a page asked for and every error in its console, and a test fails at its end if there
was one. Nothing is downloaded: the driver is the system's, `axe` is a file of a package of tests.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    ElementNotInteractableException,
    JavascriptException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = (1280, 900), (400, 800)
PATIENCE = 60.0
"""Seconds that a page may take to become what a test waits for."""

OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=Translate,OptimizationHints,MediaRouter,AutofillServerCommunication",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--proxy-server=direct://",
    "--force-color-profile=srgb",
    "--lang=en-US",
)

AXE_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")
CONTRAST = ("color-contrast",)

RUN_AXE = """
const [rules, done] = arguments;
axe.run(document, {runOnly: rules, resultTypes: ["violations"]}).then(
  found => done(found.violations), error => done([{id: String(error), impact: "critical"}]));
"""

NAMED = """
const [selector, name] = arguments;
// A page that has just changed takes no answer for a moment.
if (document.documentElement.hasAttribute("data-settling")) return undefined;
const said = it => [it.getAttribute("aria-label"), it.innerText, it.value,
  ...[...(it.labels || [])].map(label => label.innerText)].filter(Boolean);
return [...document.querySelectorAll(selector)].find(it => it.checkVisibility() &&
  said(it).some(text => text.trim().toLowerCase().startsWith(name.toLowerCase())));
"""

CHANGED = (StaleElementReferenceException, ElementNotInteractableException)
"""What is raised for a control that the page has replaced or moved meanwhile."""

FOCUS = """
const it = document.activeElement;
if (!it || it === document.body) return "";
const name = it.getAttribute("aria-label") || it.labels?.[0]?.innerText || it.innerText ||
  it.getAttribute("name") || it.id || "";
return it.tagName.toLowerCase() + " " + name.trim().split("\\n")[0];
"""


def program(*names: str) -> str | None:
    """The first of some programs that is installed."""
    return next((found for name in names if (found := shutil.which(name))), None)


def axe_source() -> str:
    """axe-core, as the package of its Python wrapper keeps it; the wrapper is not imported."""
    found = find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        pytest.skip("axe-core is not installed: it is in requirements/axe.txt")
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


class Browser:
    """One window, and what its pages asked for and complained about.

    Args:
        driver: The running browser.
        folder: Where screenshots are kept.
    """

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver = driver
        self.folder = folder
        self.addresses: list[str] = []
        self.errors: list[str] = []
        self.allowed: set[str] = set()
        """``HOST:PORT`` of the servers that pages may ask; none for a page from a disk."""
        self.expected_errors: tuple[str, ...] = ()
        """Parts of console messages that belong to what a test does, such as a refused request."""

    def fresh(self) -> None:
        """Forget the test before: its pages, cookies, sizes, colors, and messages."""
        while len(self.driver.window_handles) > 1:
            self.driver.switch_to.window(self.driver.window_handles[-1])
            self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])
        self.driver.get("about:blank")
        self.cdp("Network.clearBrowserCookies")
        self.cdp("Network.clearBrowserCache")
        self.emulate()
        self.size(*WIDE)
        self._collect()
        self.addresses, self.errors = [], []
        self.allowed, self.expected_errors = set(), ()

    def cdp(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command of the debugging protocol."""
        return cast("dict[str, Any]", self.driver.execute_cdp_cmd(command, arguments))

    # -- pages

    def open(self, address: str | Path) -> None:
        """Open a page: an address whose host it may ask from now on, or a file."""
        if isinstance(address, Path):
            self.driver.get(address.resolve().as_uri())
            return
        self.allowed.add(urlsplit(address).netloc)
        self.driver.get(address)

    @property
    def path(self) -> str:
        """The path and query of the page's address."""
        parts = urlsplit(self.driver.current_url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    @property
    def text(self) -> str:
        """The text that is shown; folded parts aren't shown."""
        return str(self.js("return document.body.innerText"))

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; returns its value."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The only element of a selector that is shown, as soon as there is one."""
        self.until(lambda: any(each.is_displayed() for each in self.all(selector)), selector)
        (found,) = (each for each in self.all(selector) if each.is_displayed())
        return found

    def named(self, name: str, selector: str = "a, button, summary, input, select") -> WebElement:
        """The first shown control with a text, a label or a value, as a person would find it."""
        found: list[WebElement] = []

        def look() -> bool:
            found[:] = [it for it in [self.js(NAMED, selector, name)] if it]
            return bool(found)

        self.until(look, f"a control `{name}`")
        return found[0]

    def answer(self, name: str, true: Callable[[], object], selector: str = "button") -> None:
        """Click a control until something is so: a page that has just changed takes no click."""

        def clicked() -> bool:
            if not true() and (found := self.js(NAMED, selector, name)):
                found.click()
            return bool(true())

        self.until(clicked, f"what `{name}` does")

    def until(self, true: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
        """Wait until something is so; the failure shows the page's text."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if true():
                    return
            except (*CHANGED, JavascriptException):
                pass  # the page changed while it was looked at
            if time.monotonic() > deadline:
                raise AssertionError(f"never came: {what}\n{self.driver.current_url}\n{self.text}")
            time.sleep(0.02)

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        """Wait until the page shows a text; returns all that it shows."""
        self.until(lambda: text in self.text, text, seconds)
        return self.text

    # -- keyboard

    def press(self, *keys: str) -> None:
        """Press keys one after the other: letters, or those of `selenium`'s `Keys` by name."""
        chain = ActionChains(self.driver)
        for key in keys:
            chain.send_keys(getattr(Keys, key) if len(key) > 1 and key.isupper() else key)
        chain.perform()

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        ActionChains(self.driver).send_keys(text).perform()

    @property
    def focus(self) -> str:
        """What has the focus: its element and its name; empty if nothing has."""
        return str(self.js(FOCUS))

    def tab_to(self, name: str, most: int = 80, *, back: bool = False) -> None:
        """Press Tab until a control has the focus whose name has this in it."""
        seen: list[str] = []
        for _ in range(most):
            if back:
                ActionChains(self.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(
                    Keys.SHIFT
                ).perform()
            else:
                self.press("TAB")
            seen.append(self.focus)
            if name.lower() in seen[-1].lower():
                return
        raise AssertionError(f"Tab never reached `{name}`: {seen}")

    def focus_is_visible(self) -> bool:
        """Whether what has the focus looks other than without it."""
        script = """
        const it = document.activeElement, look = () => {
          const of = getComputedStyle(it);
          return [of.outlineStyle, of.outlineWidth, of.boxShadow, of.backgroundColor,
            of.borderColor, of.textDecoration].join();
        };
        const having = look(); it.blur(); const without = look(); it.focus({focusVisible: true});
        return having !== without;
        """
        return bool(self.js(script))

    # -- how it looks

    def size(self, width: int, height: int) -> None:
        """Make the window this large, in CSS pixels; below 500 no real window would be."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def emulate(self, media: str = "", *, dark: bool = False, still: bool = True) -> None:
        """Show the page as in print (``media="print"``) or to a person who likes it dark."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.cdp("Emulation.setEmulatedMedia", media=media, features=features)

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        """Load pages in the block as if scripts were switched off."""
        self.cdp("Emulation.setScriptExecutionDisabled", value=True)
        try:
            yield
        finally:
            self.cdp("Emulation.setScriptExecutionDisabled", value=False)

    def screenshot(self, name: str, *, whole: bool = False) -> Path:
        """Keep a picture of the window, or of the whole page, as ``NAME.png``; returns its path."""
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        path = self.folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        return base64.b64decode(self.cdp("Page.printToPDF", printBackground=False)["data"])

    def sideways(self) -> list[str]:
        """The elements for which the page itself would have to be scrolled sideways."""
        script = """
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width) return [];
        const ends = it => it.getBoundingClientRect().left + it.scrollWidth;
        const framed = it => it.parentElement && (framed(it.parentElement) ||
          getComputedStyle(it.parentElement).overflowX !== "visible");
        const wide = [...document.body.querySelectorAll("*")].filter(
          it => ends(it) > width + 1 && !framed(it) &&
            getComputedStyle(it).overflowX === "visible");
        return ["the page", ...wide.slice(0, 10).map(it => it.outerHTML.slice(0, 120))];
        """
        return cast("list[str]", self.js(script))

    def faults(
        self, impacts: Sequence[str] = ("serious", "critical"), rules: Sequence[str] = AXE_RULES
    ) -> list[str]:
        """What axe-core finds on the page, of these impacts: the rule and the elements.

        Args:
            rules: Tags or ids of rules, such as `CONTRAST` for a page in other colors.
        """
        if not self.js("return typeof axe === 'object'"):
            self.driver.execute_script(axe_source())
        found = self.driver.execute_async_script(RUN_AXE, list(rules))
        return [
            f"{each['id']} ({each['impact']}): {each.get('help')}: "
            + "; ".join(node["html"][:160] for node in each.get("nodes", [])[:4])
            for each in cast("list[dict[str, Any]]", found)
            if each["impact"] in impacts
        ]

    # -- what happened

    def _collect(self) -> None:
        # The stubs of selenium leave the logs untyped.
        entries = cast("list[dict[str, Any]]", self.driver.get_log("performance"))
        for entry in entries:
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                self.addresses.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                self.addresses.append(event["params"]["url"])
        for entry in cast("list[dict[str, Any]]", self.driver.get_log("browser")):
            if entry["level"] in ("SEVERE", "WARNING"):
                self.errors.append(f"{entry['level']}: {entry['message']}")

    def requests(self) -> list[str]:
        """Every address asked for since the test began, also where a policy stopped it."""
        self._collect()
        return list(self.addresses)

    def console_errors(self) -> list[str]:
        """Errors and warnings of the console, Content Security Policy's among them."""
        self._collect()
        return [e for e in self.errors if not any(part in e for part in self.expected_errors)]

    def elsewhere(self) -> list[str]:
        """The addresses that were asked for at any host that is not allowed."""
        local = ("data", "blob", "about", "chrome", "devtools", "file")
        parts = [(address, urlsplit(address)) for address in self.requests()]
        return [a for a, p in parts if p.scheme not in local and p.netloc not in self.allowed]

    def check(self) -> None:
        """Fail if a page complained, or asked another host."""
        assert not self.elsewhere(), self.elsewhere()
        errors = [error[:300] for error in self.console_errors()]
        assert not errors, f"{len(errors)} errors, such as {errors[:3]}"


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser with an empty profile, which is removed after the block."""
    chromium, chromedriver = program(*CHROMIUM), program("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    home = Path(tempfile.mkdtemp(prefix="browser-"))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={home / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # With a driver given, selenium does not look for one to download.
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    service = webdriver.ChromeService(chromedriver, env={**env, "HOME": str(home)})
    try:
        driver = webdriver.Chrome(options, service)
        driver.set_script_timeout(300)
        try:
            shots = os.environ.get("FRACTALE_SCREENSHOTS")
            yield Browser(driver, Path(shots) if shots else home / "screenshots")
        finally:
            driver.quit()
    finally:
        shutil.rmtree(home, ignore_errors=True)
