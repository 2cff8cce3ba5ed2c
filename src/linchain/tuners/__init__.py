"""Our methods as PEFT tuners. Importing anything from here registers them with PEFT."""

from linchain.tuners import registration as registration
