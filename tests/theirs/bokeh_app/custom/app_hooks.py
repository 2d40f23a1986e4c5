"""What the server and its sessions tell the app."""


def on_server_loaded(server_context):
    print("hooked")


def on_session_destroyed(session_context):
    print("session gone")
