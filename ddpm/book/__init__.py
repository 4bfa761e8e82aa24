"""What the book needs beside the method: drawing, and the checks of its exercises.

Nothing else in the package imports it.
"""

from ddpm.book.exercises import check as check
