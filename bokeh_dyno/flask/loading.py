"""How the place of an app looks until it is drawn: as high as the app was at boot, and with a ring when that takes longer."""

from __future__ import annotations

from markupsafe import Markup

# In one line, for every page with an app has it; page.js takes the class away. A media query that a browser does not know
# is false: then there is no ring.
LOADING = Markup(
    "".join(
        line.strip()
        for line in """
    <style>
    .bokeh-loading{position:relative;min-height:3rem}
    @media (scripting:none){.bokeh-loading{min-height:0!important}}
    @media (scripting:enabled){
        .bokeh-loading:not(:has(.bokeh-status))::before{content:"";position:absolute;box-sizing:border-box;
            width:28px;height:28px;left:calc(50% - 14px);top:min(50% - 14px,160px);border:3px solid;border-radius:50%;
            border-color:currentColor transparent transparent;opacity:0;
            animation:bokeh-turn 1s linear infinite,bokeh-appear .4s .6s forwards}}
    @media (prefers-reduced-motion:reduce){.bokeh-loading::before{
        border:3px dotted currentColor!important;animation-duration:0s,.4s!important}}
    @keyframes bokeh-turn{to{rotate:1turn}}
    @keyframes bokeh-appear{to{opacity:.5}}
    </style>
    """.splitlines()
    )
    + "\n"
)
