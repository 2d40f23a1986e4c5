"""The machinery that makes one dyno of a Flask site, Bokeh apps and nginx.

It names no page of `flask_app/` and no app of `bokeh_app/`: replace those two folders and nothing here changes.

    settings   every config var: name, default, what is allowed
    envfile    .env on a laptop, checked before honcho reads it
    start      the start script's work: render, start, wait, open the port, stop
    processes  those that the start script starts, and all that they start
    nginx      find, render and test nginx's configuration
    gunicorn   the configuration of the `flask` process
    bokeh      the `bokeh` process: what all workers share
    worker     one of them: `bokeh serve` on a unix socket
    gate       who is let in to its sessions, and how many
    websocket  what a visitor may send
    reading    what reading that may cost
    faults     whose fault it is when a worker ends
    master     keeps them alive
    options    what `bokeh serve` can be told, and what there is instead
    app        one app: its code, and what it must not end
    warm       its run before anybody opens it
    fork       what that leaves behind, which workers must not share
    needs      scripts and stylesheets that a document needs
    balance    which worker a new session goes to
    idle       the `bokeh` process when the Bokeh workers are on dynos elsewhere
    buildpack  what is different under the nginx buildpack's start script
    check      the build's check of what the person has written
    apps       which Bokeh apps there are
    log        whole lines, and nothing private in them
    health     who answers and who does not
    static     BokehJS and the page's script, compressed, for nginx
    tokens     session tokens: made and checked
    signals    as something to wait for; sigterm: the shield against that one
    embed      the Flask extension: sessions that Flask mints, Bokeh apps in pages
"""
