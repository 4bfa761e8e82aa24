"""Pictures that move under the reader's hand.

`frame_scrubber` needs no kernel: plain HTML, no library, no network. `schedule_explorer` computes what it shows, so it
needs a live notebook; `live_front_end` tells whether there is one.
"""

from ddpm.book.widgets.explorer import EXPLORED, live_front_end, schedule_explorer, unscaled_linear_betas
from ddpm.book.widgets.scrubber import frame_scrubber

__all__ = ["EXPLORED", "frame_scrubber", "live_front_end", "schedule_explorer", "unscaled_linear_betas"]
