"""python -m docs.pages: write the generated pages, and the summary in the README, again."""

from docs.pages import gallery, write

if __name__ == "__main__":
    gallery.overview()
    for path in write():
        print(path)
