import socket,ssl,trustme,threading,http.client
ca=trustme.CA(); c=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); ca.issue_cert("localhost").configure_cert(c)
s=socket.create_server(("127.0.0.1",0)); s2=c.wrap_socket(s,server_side=True)
def f():
    try: s2.accept()
    except Exception as e: print("srv",repr(e))
threading.Thread(target=f).start()
h=http.client.HTTPConnection(*s.getsockname()[:2])
try: h.request("GET","/"); h.getresponse()
except Exception as e: print(repr(e))
s3=socket.create_server(("127.0.0.1",0))
def g():
    a,_=s3.accept(); a.recv(1000); a.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"); a.close()
threading.Thread(target=g).start()
h=http.client.HTTPSConnection(*s3.getsockname()[:2])
try: h.request("GET","/"); h.getresponse()
except Exception as e: print(repr(e), e.reason, e.strerror)
