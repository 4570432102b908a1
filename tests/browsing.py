"""What tests of pages share: sizes, pictures for those who want to look (SINTRA_SHOTS names a
folder), axe-core.
"""

import os
from pathlib import Path

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def shot(page, name):
    """A picture of the whole page, where a folder for pictures is named."""
    if folder := os.environ.get("SINTRA_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def serious(page):
    """What axe-core finds of serious or critical trouble (WCAG contrast, names, roles, keyboard), a
    line each.
    """
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:120]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


def sideways(page):
    """Whether the page as a whole is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")
