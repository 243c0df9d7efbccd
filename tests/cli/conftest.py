"""What happens in the midst of a command."""

import pytest

from npddpm import DDPM


@pytest.fixture
def at(monkeypatch):
    """A function that has something happen each time a model's training, or its samples, come to an item of a number."""
    def at(name, number, happens):
        whole = getattr(DDPM, name)

        def struck(self, *args, **options):
            for i, item in enumerate(whole(self, *args, **options), 1):
                if i == number:
                    happens()
                yield item

        monkeypatch.setattr(DDPM, name, struck)

    return at
