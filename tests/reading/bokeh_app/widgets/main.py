"""Every widget of Bokeh, once with a title and once without, a plot with every tool, and one without a title."""

from datetime import date, datetime

from bokeh import models as bk
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models.dom import HTML
from bokeh.plotting import figure

DAY, LATER = date(2026, 3, 1), date(2026, 3, 20)
MORNING, EVENING = datetime(2026, 3, 1, 8), datetime(2026, 3, 1, 20)
NAMES = ["north", "south", "west"]
PALETTES = [("red and blue", ["#ff0000", "#0000ff"]), ("grey", ["#222222", "#dddddd"])]


def made(title: str) -> list:
    """Return one of each widget."""
    sliders = [
        bk.Slider(title=title and "Amount", start=0, end=10, value=3, show_value=False),
        bk.RangeSlider(title=title and "Between", start=0, end=10, value=(2, 5)),
        bk.DateSlider(title=title and "Day", start=DAY, end=LATER, value=DAY),
        bk.DateRangeSlider(title=title and "Days", start=DAY, end=LATER, value=(DAY, LATER)),
        bk.DatetimeRangeSlider(title=title and "Hours", start=MORNING, end=EVENING, value=(MORNING, EVENING)),
        bk.CategoricalSlider(title=title and "Station", categories=NAMES, value="south"),
    ]
    inputs = [
        bk.TextInput(title=title and "Name", value="a text"),
        bk.TextAreaInput(title=title and "Story", value="a text"),
        bk.PasswordInput(title=title and "Secret"),
        bk.NumericInput(title=title and "Number", value=3),
        bk.Spinner(title=title and "Steps", value=3, low=0, high=9),
        bk.AutocompleteInput(title=title and "Search", completions=NAMES),
        bk.Select(title=title and "One of", options=NAMES, value="south"),
        bk.MultiSelect(title=title and "Some of", options=NAMES, value=["south"]),
        bk.MultiChoice(title=title and "Several of", options=NAMES, value=["south"]),
        bk.ColorPicker(title=title and "Colour", color="#336699"),
        bk.PaletteSelect(title=title and "Palette", value="grey", items=PALETTES),
        bk.FileInput(title=title and "File"),
        bk.DatePicker(title=title and "Date", value=DAY),
        bk.DateRangePicker(title=title and "Dates", value=(DAY, LATER)),
        bk.MultipleDatePicker(title=title and "Free days", value=[DAY]),
        bk.DatetimePicker(title=title and "Date and time", value=MORNING),
        bk.DatetimeRangePicker(title=title and "Dates and times", value=(MORNING, EVENING)),
        bk.TimePicker(title=title and "Time", value="08:00:00"),
    ]
    groups = [
        bk.CheckboxGroup(labels=NAMES, active=[1], html_attributes={"aria-label": "Stations"} if title else {}),
        bk.RadioGroup(labels=NAMES, active=1),
        bk.CheckboxButtonGroup(labels=NAMES, active=[1]),
        bk.RadioButtonGroup(labels=NAMES, active=1),
        bk.Checkbox(label=title and "Agreed", active=True),
        bk.Switch(label=title and "Lamp", active=True),
        bk.Toggle(label=title and "Pressed", active=True),
        bk.Button(label=title and "Go"),
        bk.Dropdown(label=title and "More", menu=[("first", "1"), None, ("second", "2")]),
        bk.HelpButton(tooltip=bk.Tooltip(content=HTML("It <b>helps</b>"), position="right")),
        bk.Progress(value=30, label=title and "Done"),
    ]
    return [*sliders, *inputs, *groups]


table = bk.ColumnDataSource({"when": [MORNING, EVENING], "where": NAMES[:2], "value": [1.5, 2.5]})
rows = bk.DataTable(
    source=table,
    columns=[bk.TableColumn(field="where", title="Where"), bk.TableColumn(field="value", title="Value")],
    height=120,
    editable=True,
)
texts = [bk.Div(text="A <b>div</b>"), bk.Paragraph(text="A paragraph"), bk.PreText(text="A text")]
drawn = figure(
    title="All tools", height=200, width=700, x_axis_label="x", y_axis_label="y", name="drawn",
    tools="pan,xpan,wheel_zoom,box_zoom,box_select,lasso_select,poly_select,tap,zoom_in,zoom_out,undo,redo,reset,save,crosshair,"
    "hover,examine,help,fullscreen,copy",
)  # fmt: skip
drawn.line("x", "y", source=bk.ColumnDataSource({"x": [1, 2, 3], "y": [3, 1, 2]}))
small = figure(height=150, width=150, toolbar_location="left", html_attributes={"aria-label": "Three dots that fall"})
small.scatter([1, 2, 3], [3, 1, 2])
tabs = bk.Tabs(
    tabs=[bk.TabPanel(child=bk.Div(text="first"), title="First"), bk.TabPanel(child=small, title="Second")], active=1
)

curdoc().title = "Widgets"
arguments = curdoc().session_context.request.arguments
widgets = made("" if arguments.get("which") == [b"bare"] else "titled")
curdoc().add_root(column(*widgets, *texts, rows, drawn, tabs, sizing_mode="stretch_width"))
