"""One local page: the videos of a folder side by side in step, their alignments, and labels that are carried over.

`board` knows the videos and does the work behind the page, `films` makes what a browser can play, `marks` reads and
writes labels, `server` answers the browser, `static` is what runs in it.
"""
