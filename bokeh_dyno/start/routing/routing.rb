# What config/nginx.conf.erb, and the parts of the routing beside this file, are rendered with. Plain erb loads it, with
# nothing but the config vars: bokeh_dyno/shared/config_vars.py explains each and checks it. The defaults here are for erb run by
# hand or by the nginx buildpack's own script, which collects logs from logs/nginx.

VERSION_OF_ROUTING = 2 # higher when an older config/nginx.conf.erb has to be changed (CHANGELOG.md)
DEFAULTS = {
  'PORT' => '5000', 'RUN_DIR' => 'run', 'WEB_CONCURRENCY' => '2', 'FORCE_HTTPS' => '0',
  'BOKEH_PREFIX' => '/bkapp', 'BOKEH_WORKERS' => '2', 'BOKEH_UPSTREAM' => '', 'BOKEH_ALLOW_WS_ORIGIN' => '',
  'ALLOWED_HOSTS' => '', 'MAINTENANCE' => '0', 'MAX_UPLOAD_MB' => '20', 'REQUEST_TIMEOUT' => '29',
  'CONTENT_SECURITY_POLICY' => 'on', 'FRAME_ANCESTORS' => 'self',
  'BOKEH_MAX_STARTS' => '20', 'VISITOR_CONNECTIONS' => '500', 'FORWARDED_ALLOW_IPS' => '127.0.0.1,::1',
  'REAL_IP_HEADER' => 'X-Forwarded-For',
  'NGINX_WORKERS' => '2', 'NGINX_WORKER_CONNECTIONS' => '6000', 'NGINX_ACCESS_LOG_PATH' => 'logs/nginx/access.log',
  'NGINX_ERROR_LOG_PATH' => 'logs/nginx/error.log', 'LOG_FORMAT' => 'text'
}

# A config var
def var(name) = ENV[name].to_s.empty? ? DEFAULTS.fetch(name) : ENV[name]

def list(name) = var(name).split(',').map(&:strip).reject(&:empty?)

# The project's folder, as a path of the person's begins with
def root = Dir.pwd

# RUN_DIR: relative, for the kernel takes 107 characters of a socket's path; the directives that have it here look from the
# project
def run = var('RUN_DIR')

# One run of COMMAND (bokeh_dyno/start/generation.py): the folder with its sockets and static files, its Bokeh workers. Without
# our start script there is one, which has RUN_DIR itself
Generation = Struct.new(:name, :folder, :workers) do
  def socket(name) = "unix:#{folder}/#{name}.sock"

  # What a session's token has in characters 25 to 28: three of its id, in base64
  def in_token = [name].pack('m0').tr('+/', '-_')
end

# `listen` for PORT, of both kinds of addresses where this machine has both
def listen(more = '')
  ipv6 = File.exist?('/proc/net/if_inet6') ? !File.read('/proc/net/if_inet6').empty? : !File.directory?('/proc/net')
  ['', *('[::]:' if ipv6)].map { |address| "listen #{address}#{var 'PORT'} #{more}".rstrip + ';' }.join("\n        ")
end

# The one that serves, then those that still have pages
def generations
  listed = ENV['DYNO_GENERATIONS'].to_s.split(',').map do |generation|
    name, workers = generation.split(':')
    Generation.new(name, "#{run}/#{name}", workers.to_i)
  end
  listed.empty? ? [Generation.new('', run, var('BOKEH_WORKERS').to_i)] : listed
end

# Below `root RUN_DIR`: where to look for a static file, in the order of the generations
def static_files(*paths)
  generations.flat_map { |one| paths.map { |path| "#{one.folder.delete_prefix(run)}/static#{path}" } }.join(' ')
end

# Two tiers: Bokeh on dynos elsewhere, or no Flask here
def elsewhere = list('BOKEH_UPSTREAM')

# Below bin/dev
def dev? = ENV['DYNO_DEV'] == '1'

# ... the script of its pages, which is to know who has made this one, and of what kind of request
def dev_script(more = '')
  "<script src=\"/dyno-dev/page.js\" data-method=\"$request_method\" data-generation=\"%s\" #{more}></script>" %
    ENV['DYNO_GENERATIONS'].to_s[/\A\w+/]
end

def flask? = var('WEB_CONCURRENCY') != '0'

# Where requests are logged; our start script counts them, too, in the lines on /dev/stdout, or else in such as are for it alone
def counted_apart?
  ENV['DYNO_GENERATIONS'].to_s != '' && (var('NGINX_ACCESS_LOG_PATH') != '/dev/stdout' || var('LOG_FORMAT') == 'json')
end

# The routing's version that a config/nginx.conf.erb was written for
def written_for(version)
  return "# routing #{version}" if version == VERSION_OF_ROUTING

  abort "it was written for routing #{version}, this bokeh-dyno has #{VERSION_OF_ROUTING}: see its CHANGELOG.md"
end

# A part of the routing, NAME.conf.erb beside this file
def part(name)
  ERB.new(File.read(File.join(__dir__, "#{name}.conf.erb"))).result(binding)
end

# HOST or HOST:PORT, * for any part, as Bokeh reads BOKEH_ALLOW_WS_ORIGIN: a pattern. No port means 80, for a page also
# https's 443
def origins
  list('BOKEH_ALLOW_WS_ORIGIN').map do |origin|
    host, port = origin.match(/\A(.*?)(?::([0-9]+|\*))?\z/).captures
    port = { nil => '(:80|:443)?', '80' => '(:80)?', '*' => '(:[0-9]+)?' }.fetch(port, ":#{port}")
    Regexp.escape(host).gsub('\*', '[^/:]*') + port
  end
end

# ALLOWED_HOSTS as a pattern: *.HOST is any name below it
def allowed_hosts
  list('ALLOWED_HOSTS').map do |host|
    host.start_with?('*.') ? "[\\w.-]+#{Regexp.escape(host[1..])}" : Regexp.escape(host)
  end.join('|')
end

# Who may show a page in a frame, as a Content-Security-Policy says it
def frame_ancestors
  "frame-ancestors #{list('FRAME_ANCESTORS').map { |site| %w[self none].include?(site) ? "'#{site}'" : site }.join(' ')}"
end

# ... and for browsers without one, which know two of the answers
def frame_options = { %w[self] => 'SAMEORIGIN', %w[none] => 'DENY' }[list('FRAME_ANCESTORS')]

# The headers of every answer, for a location that has an add_header of its own: it has none of the server's then. What the
# site or an app has set itself stays, see the maps in http.conf.erb. With own: true, of what nginx itself says; :file, of a file
def headers(own: false)
  nothing_runs = "default-src 'none'; style-src 'unsafe-inline'; " if var('CONTENT_SECURITY_POLICY') == 'on' && !dev?
  policy = own == :file && nothing_runs ? "default-src 'none'" : "#{nothing_runs}#{frame_ancestors}"
  lines = {
    'X-Content-Type-Options' => own ? 'nosniff' : '$nosniff',
    'Referrer-Policy' => own ? 'no-referrer' : '$referrer_policy',
    'Content-Security-Policy' => own ? "\"#{policy}\"" : '$frame_policy',
    'X-Frame-Options' => own ? (frame_options unless own == :file) : '$frame_options',
    'X-Request-Id' => own ? '$dyno_request_id' : '$request_id_sent'
  }
  lines['Strict-Transport-Security'] = own ? '$own_transport' : '$transport' if var('FORCE_HTTPS') == '1'
  lines.compact.map { |name, value| "add_header #{name} #{value} always;" }.join("\n    ")
end

# What nginx itself says in the place of a page; one that asks again by itself unless `again` is false, as after an upload
def page(sentence, again: true)
  "'<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">" \
  "<meta name=\"color-scheme\" content=\"light dark\">#{'<meta http-equiv="refresh" content="10">' if again}" \
  "<title>#{sentence}</title>" \
  "<p style=\"font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 15vh auto; padding: 0 16px\">#{sentence}" \
  "#{' This page tries again by itself.' if again}</p></html>'"
end
