"""Tools to follow many topics in a page over one connection."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

# Makes a connection in the page: `connection`, its states in `states`. `follow` subscribes to a
# topic; `heard`, `opened` and `noticed` hold each topic's publications, states and presence.
_CONNECT = """
async (options) => {
  const { connect } = await import("/pushd.js");
  Object.assign(window, { states: [], handles: {}, heard: {}, opened: {}, noticed: {} });
  window.connection = connect("/topics", {
    token: window.makeToken, ...options, onState: (state) => states.push(state),
  });
  window.follow = (topic, { key = topic, presence = false, ...options } = {}) => {
    [heard[key], opened[key], noticed[key]] = [[], [], []];
    handles[key] = connection.subscribe(topic, (publication) => {
      const { data } = publication;
      heard[key].push({ ...publication, data: data instanceof Uint8Array ? [...data] : data });
    }, {
      onState: (state) => opened[key].push(state),
      onPresence: presence ? (change) => noticed[key].push(change) : undefined,
      ...options,
    });
  };
}
"""


def connect(page: Page, **options: Any) -> None:
    """Make a connection in the page, which was loaded from a server that has the client."""
    page.evaluate(_CONNECT, options)


def follow(page: Page, *topics: str, **options: Any) -> None:
    """Subscribe to topics, all at once."""
    page.evaluate(
        "([topics, options]) => topics.forEach((topic) => follow(topic, options))",
        [topics, options],
    )


def unfollow(page: Page, *keys: str) -> None:
    """End subscriptions, all at once."""
    page.evaluate("(keys) => keys.forEach((key) => handles[key].close())", keys)


def wait_for_topic(page: Page, key: str, state: str = "open") -> Any:
    """Wait until a topic has this state, and return it."""
    found = page.wait_for_function(
        "([key, state]) => handles[key].state.state === state && handles[key].state",
        arg=[key, state],
    )
    return found.json_value()


def wait_for_connection(page: Page, state: str) -> Any:
    """Wait until the connection has this state, and return it."""
    found = page.wait_for_function(
        "(state) => connection.state.state === state && connection.state", arg=state
    )
    return found.json_value()


def wait_for_data(page: Page, key: str, expected: list[Any]) -> None:
    """Wait for N publications of a topic, and check that they are the expected ones."""
    page.wait_for_function("([key, count]) => heard[key].length >= count", arg=[key, len(expected)])
    assert page.evaluate("(key) => heard[key].map(({ data }) => data)", key) == expected


def topic_states(page: Page, key: str) -> list[Any]:
    """Return the states of a topic: their names, with ``recovered`` if they are open."""
    return list(
        page.evaluate(
            "(key) => opened[key].map(({ state, recovered }) => "
            "recovered === undefined ? state : [state, recovered])",
            key,
        )
    )
