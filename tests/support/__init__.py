"""What tests share: graphs, servers, clients and stand-ins."""
