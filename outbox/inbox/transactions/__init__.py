"""One transaction of an inbox: its statements, its handlers, and the ground that it runs on."""
