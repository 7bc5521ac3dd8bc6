"""What a real browser sees: Debian's Chromium, driven by Playwright."""
