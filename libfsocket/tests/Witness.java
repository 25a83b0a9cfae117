/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/** Witness ADDRESS PORT: answers GET /; GET /self asks itself by a client of its own; GET /end ends it, status 7. */
public class Witness {
    public static void main(String[] args) throws Exception {
        String url = "http://" + args[0] + ":" + args[1] + "/";
        HttpServer server = HttpServer.create(new InetSocketAddress(args[0], Integer.parseInt(args[1])), 128);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/", exchange -> {
            byte[] text = "java\n".getBytes(StandardCharsets.UTF_8);
            if (exchange.getRequestURI().getPath().equals("/self")) {
                text = new URL(url).openStream().readAllBytes();
            }
            exchange.sendResponseHeaders(200, text.length);
            exchange.getResponseBody().write(text);
            exchange.close();
            if (exchange.getRequestURI().getPath().equals("/end")) {
                System.exit(7);
            }
        });
        server.start();
    }
}
