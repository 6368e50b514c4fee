-- One database for each service; the server's image runs this when its volume is empty.
CREATE DATABASE orchestrator;
CREATE DATABASE articles;
CREATE DATABASE comments;
