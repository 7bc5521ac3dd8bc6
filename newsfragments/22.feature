Publishers can open a WebSocket at `/publish` of the control port: each message is a publication, and each answer its id. What arrives together is published and answered together. See docs/topics.md.
