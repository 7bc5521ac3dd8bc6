"""The pages of the tutorials, as a customer and the staff see them."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, HttpCredentials, Page, expect

from tests.support.tutorial import begin

# tests/live/test_tutorials.py does these: they take long.
SKIPPED = ("python3 -m venv", "manage.py test", "-m pytest")


def test_django(page: Page, browser: Browser, tmp_path: Path) -> None:
    """What the staff change in the admin is on the customer's page at once, and after a restart."""
    with begin("tutorial-django.md", 8000, tmp_path, skipped=SKIPPED) as (tutorial, url):
        tutorial.do("1. Install", "2. Create the project", "3. Publish when an order is saved")
        tutorial.do("4. Write the page", "5. Let customers read their own topic only")
        tutorial.step()
        log_in(page, f"{url}/", "ann")
        expect(page.get_by_role("heading")).to_have_text("The orders of ann")
        expect(page.get_by_role("status")).to_have_text("Live")
        tutorial.step()
        expect(page.get_by_role("listitem")).to_have_text("A lamp: received")

        staff = browser.new_context().new_page()
        log_in(staff, f"{url}/admin/orders/order/", "staff")
        staff.locator("#id_form-0-status").select_option("packed")
        staff.get_by_role("button", name="Save").click()
        expect(page.get_by_role("listitem")).to_have_text("A lamp: packed")
        staff.context.close()

        tutorial.do("7. Try to read what is not yours")
        tutorial.interrupt()
        expect(page.get_by_role("status")).to_have_text("Connecting …")
        tutorial.do("8. Restart the daemon")
        expect(page.get_by_role("listitem")).to_have_text("A lamp: shipped")
        expect(page.get_by_role("status")).to_have_text("Live")


def log_in(page: Page, url: str, name: str) -> None:
    """Open a page that asks who is there."""
    page.goto(url)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(name)
    page.get_by_role("button", name="Log in").click()


def test_fastapi(browser: Browser, tmp_path: Path) -> None:
    """What the staff change is on the customer's page at once, and after a restart."""
    with begin("tutorial-fastapi.md", 8080, tmp_path, skipped=SKIPPED) as (tutorial, url):
        tutorial.do("1. Install", "2. Write the application", "3. Make a key", "4. Write the page")
        tutorial.step()
        ann: HttpCredentials = {"username": "ann", "password": "ann"}
        with browser.new_context(http_credentials=ann) as context:
            page = context.new_page()
            page.goto(f"{url}/")
            expect(page.get_by_role("status")).to_have_text("Live")
            tutorial.step()
            expect(page.get_by_role("listitem")).to_have_text("A lamp: received")
            tutorial.step()
            expect(page.get_by_role("listitem")).to_have_text("A lamp: paid")
            tutorial.do("6. Try to read what is not yours")
            tutorial.interrupt()
            expect(page.get_by_role("status")).to_have_text("Connecting …")
            tutorial.do("7. Restart the daemon")
            expect(page.get_by_role("listitem")).to_have_text("A lamp: shipped")
            expect(page.get_by_role("status")).to_have_text("Live")
