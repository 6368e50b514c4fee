"""Those who do the same work in other ways: how they are installed, started and asked."""
