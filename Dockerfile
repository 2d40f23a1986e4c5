# The dyno as an image: docker build -t bokeh-dyno . (docs/containers.md)
# The user id may be any other, the root read-only with a tmpfs on /tmp, the capabilities none.

FROM debian:trixie-slim AS base
# nginx and ruby, for its erb, as on any other machine; libseccomp2 for the shield against SIGTERM. Their versions are the
# release's, with its security updates: a pin would fail the build with the next of those. Of the gems that come with
# ruby, 9 MB, only erb is needed, and neither bundler nor rdoc, 3 MB.
# hadolint ignore=DL3008
RUN printf '%s\n' 'path-exclude=/usr/lib/ruby/gems/*/gems/*' 'path-include=/usr/lib/ruby/gems/*/gems/erb-*' \
      'path-exclude=/usr/lib/ruby/*/bundler/*' 'path-exclude=/usr/lib/ruby/*/rdoc/*' >/etc/dpkg/dpkg.cfg.d/ruby && \
    apt-get update && \
    apt-get install --yes --no-install-recommends libseccomp2 nginx python3 ruby && \
    rm -rf /var/cache/apt/* /var/lib/apt/lists/* /var/log/*
ENV LANG=C.UTF-8 VIRTUAL_ENV=/app/.venv PATH=/app/.venv/bin:$PATH
WORKDIR /app


FROM base AS build
# pip in an environment of its own: the site's gets none
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3-venv && \
    python3 -m venv /pip && \
    python3 -m venv --without-pip .venv
# which packages the site has: requirements-redis.txt adds what REDIS_URL needs
ARG REQUIREMENTS=requirements.txt
COPY requirements*.txt ./
# without 75 MB that nothing here opens: the packages' own tests and stubs of types, BokehJS in its long form, and its
# compiler, for which it takes a node
RUN /pip/bin/pip --python .venv/bin/python install --no-cache-dir --only-binary :all: -r "$REQUIREMENTS" && \
    find .venv -type d \( -name tests -o -path '*/bokeh/server/static/lib' \) -prune -exec rm -r {} + && \
    find .venv \( -name '*.pyi' -o -path '*/bokeh/server/static/js/*.js' ! -name '*.min.js' \) -delete
COPY . .
# As bin/post_compile does: what browsers get, compressed; every module compiled, for nobody may write later; the settings,
# the apps and the routing checked. The folder is readable to all, whatever the right of whoever has checked it out. Then
# the packages apart, which change less often than the site: they are a layer of their own.
RUN export RUN_DIR=/tmp/check && \
    python3 -m bokeh_dyno static && \
    { python3 -m compileall -q -x '/\.' . || true; } && \
    python3 -m bokeh_dyno check && \
    chmod -R a+rX,go-w . && \
    mv .venv /packages


FROM base
COPY --from=build /packages .venv
COPY --from=build /app .
# whoever it runs as may not be in /etc/passwd, and may write to /tmp alone
ENV HOME=/tmp RUN_DIR=/tmp/bokeh-dyno
USER 10001:0
EXPOSE 5000
STOPSIGNAL SIGTERM
# without a Python, which would take a tenth of a second of CPU and 15 MB each time
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["bash", "-c", \
  "exec 3<>/dev/tcp/127.0.0.1/${PORT:-5000} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
CMD ["python3", "-m", "bokeh_dyno", "server"]
