"""The machinery that makes one dyno of a Flask site, Bokeh apps and nginx.

It names no page of `flask_app/` and no app of `bokeh_app/`: replace those two folders and nothing here changes.
Five rooms: one for each process, one for what the browser gets, and the ground that they stand on. `start`, `flask` and
`bokeh` import from `page` and `shared`, `page` from `shared`, and none from another.

    start/   what bin/start-nginx runs
        dyno        one run: render, start, wait, open the port, stop
        generations COMMAND of one code after that of another, side by side for a while; generation: one of them
        processes   those that it starts, and all that they start; memory: whether there is room for more
        nginx       find, render and test nginx's configuration; erb: starts what renders it
        port        $PORT, held until the site works
        status      what it answers by itself: /healthz, /metrics
        upstreams   the addresses of Bokeh dynos elsewhere
        output      what the dyno prints, with a buffer before it; events: a line of it, as text or JSON
        metrics     /metrics: who may have it, and the requests; collector: all else that it says
        check       a project without starting it, and what honcho reads
        doctor/     what is wrong, and what to do: machine, folder (and its settings), hops (to a dyno; visit: what is asked)
        init        what a repository with a Flask site needs to be a dyno; project/: the files
        new         a new app, a new page of the site; project/apps/, project/pages/: what they begin as
        dev         what bin/dev does; start_script: the dyno below it
        edits       what has been edited, and what that needs; mistakes: what is wrong with it
        stream      what open pages hear of it
        routing/    the machinery's parts of config/nginx.conf.erb
    flask/   the `flask` process
        gunicorn    its configuration
        embed       the Flask extension: sessions that Flask mints, Bokeh apps in pages
        edge        around the site: /healthz; loading: how an app's place looks until it is drawn
        headers     of the site's pages: their Content-Security-Policy, and no token in a redirect
        dev         what is different below bin/dev, and with `flask run`
    bokeh/   the `bokeh` process
        __main__    the process: runs every app once, then forks the workers
        options     what `bokeh serve` can be told, and what there is instead
        own_page    an app's own page: its template, our script, its policy
        app         one app: its code, and what it must not end
        warm        its run before anybody opens it; height: what its place on a page has from then on
        master      keeps the workers alive
        worker      one of them: `bokeh serve` on a unix socket
        gate        who is let in to its sessions, and how many
        websocket   what a visitor may send; frames: how it travels; limits: what all may hold
        reading     what reading it may cost
        faults      whose fault it is when a worker ends
        metrics     what a worker counts for /metrics
        properties  what Bokeh works out anew for each model, once
        idle        the process when the workers are on dynos elsewhere
    page/    what the browser gets
        page.js     the page's script: shows the apps, and brings them back
        connection.js, values.js, scripts.js, theme.js: its session, what the visitor entered, parts of BokehJS, colours
        reading.js  names for screen readers, keys, the data as a table: a script of its own, loaded when the plots are there
        dev.js      the page's side of bin/dev: edits put in place, errors over the page
        static      BokehJS, and the page's script as one, compressed, for nginx
        needs       scripts and stylesheets that a document needs
        policy      which scripts a page may run
    shared/  the ground
        settings    the config vars, read; config_vars: every one's name, default, what is allowed; allowed: the checks
        container   what this process may use, and the config vars that follow from that
        run_dir     RUN_DIR: sockets, and whatever else lives only as long as the dyno
        apps        which Bokeh apps there are
        tokens      session tokens: made and checked
        balance     which worker a new session goes to
        health      who answers and who does not
        visitor     who counts as one
        numbers     memory in which processes count, for /metrics
        log         whole lines, and nothing private in them; errors: what bin/dev shows of them; sentry: sends them
        fork        what code leaves behind, which a fork must not share
        spare       below bin/dev: the next processes, there before they are wanted
        signals     as something to wait for; sigterm: the shield against that one
        buildpack   what is different under the nginx buildpack's start script
        private     every name of Bokeh's own inside that is relied upon
"""

__version__ = "0.2.0"
