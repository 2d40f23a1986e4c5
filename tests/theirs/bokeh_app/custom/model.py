"""A model with a script of its own."""

from bokeh.models import Div
from bokeh.util.compiler import JavaScript


class Shout(Div):
    __implementation__ = JavaScript("""
const {Div, DivView} = require("models/widgets/div")
class ShoutView extends DivView {
  render() { super.render(); this.el.setAttribute("data-shout", "loud") }
}
class Shout extends Div {}
Shout.prototype.default_view = ShoutView
Shout.__name__ = "Shout"
module.exports = {Shout}
""")
    __css__ = "/styles.css?shout"
