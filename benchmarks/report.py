def write(kept, pages, *, quick):
    return pages
